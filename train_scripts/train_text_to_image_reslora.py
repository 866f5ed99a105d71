"""Fine-tunes the U-Net of Stable Diffusion with LoRA or ResLoRA, merges, and proves the result in a fresh pipeline.

    accelerate launch train_scripts/train_text_to_image_reslora.py

fine-tunes the embedded model on OpenMoji drawings: 200 steps, one to two minutes on two cores. On your own pictures:

    accelerate launch train_scripts/train_text_to_image_reslora.py \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --train_data_dir my_pictures --method reslora_is --max_train_steps 1000 --mixed_precision fp16 \
        --validation_prompts "a photo of my dog on a beach" --validation_steps 100

Expect in OUTPUT_DIR: pytorch_lora_weights.safetensors, which StableDiffusionPipeline.load_lora_weights takes with
nothing of ours installed; validation/*.png; merge_report.json; log.jsonl with a loss that falls slowly and noisily.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from tqdm.auto import tqdm

from reslora_sd import ResLoRAAdapter, add_reslora
from reslora_sd.diffusion.arguments import lora_config, parse_arguments
from reslora_sd.diffusion.batches import BatchMaker
from reslora_sd.diffusion.checkpoints import register_adapter, save_checkpoint
from reslora_sd.diffusion.data import Framing, load_images
from reslora_sd.diffusion.encode import Encoder
from reslora_sd.diffusion.finish import finish
from reslora_sd.diffusion.loss import diffusion_loss
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.reference_pictures import save_real_pictures
from reslora_sd.diffusion.reports import describe, finite, print_result, public, push_to_hub
from reslora_sd.diffusion.validation import Validation, validation_loss
from reslora_sd.runs.folder import RunFolder, find_checkpoint, step_of
from reslora_sd.runs.stopping import until_stopped
from reslora_sd.training.checks import check_learning, check_loss, peak_memory_mb
from reslora_sd.training.distributed import leave_process_group

logger = logging.getLogger("reslora_sd")
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_MUST_LEARN_BY = 10  # optimizer steps with a learning rate above zero


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """accelerate's settings for this run; nothing is written yet."""
    return Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(
            project_dir=args.output_dir, logging_dir=str(Path(args.output_dir, args.logging_dir))
        ),
        # every parameter of the adapter gets a gradient in every step
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )


def make_optimizer(args: argparse.Namespace, adapter: ResLoRAAdapter, processes: int) -> torch.optim.Optimizer:
    """AdamW on the adapter's parameters, which are float32 in every precision."""
    optimizer_class = torch.optim.AdamW
    if args.use_8bit_adam:
        try:
            import bitsandbytes
        except ImportError:
            raise ImportError("--use_8bit_adam needs bitsandbytes. Run: pip install bitsandbytes") from None
        optimizer_class = bitsandbytes.optim.AdamW8bit
    scale = args.gradient_accumulation_steps * args.train_batch_size * processes if args.scale_lr else 1
    return optimizer_class(
        list(adapter.parameters()),
        lr=args.learning_rate * scale,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.adam_weight_decay,
        eps=args.adam_epsilon,
    )


def make_validation(args: argparse.Namespace, steps_of_epoch: int, resolution: int) -> tuple[Validation | None, int]:
    """What to draw, and every how many steps; 0 for never."""
    if not args.validation_prompts:
        return None, 0
    every = args.validation_steps or (args.validation_epochs or 0) * steps_of_epoch
    seeds = tuple(args.seed + number for number in range(args.num_validation_images))
    validation = Validation(
        prompts=tuple(args.validation_prompts),
        seeds=seeds,
        negative_prompt=args.validation_negative_prompt,
        guidance_scale=args.validation_guidance_scale,
        inference_steps=args.validation_inference_steps,
        resolution=resolution,
    )
    return validation, every


def trained_timesteps(args: argparse.Namespace, schedule: int) -> range:
    """Those that --min_timestep and --max_timestep leave of the scheduler's."""
    stop = schedule if args.max_timestep is None else args.max_timestep
    if not 0 <= args.min_timestep < stop <= schedule:
        raise ValueError(
            f"--min_timestep is {args.min_timestep} and --max_timestep {stop}. The model's schedule has {schedule} "
            f"timesteps: 0 <= min_timestep < max_timestep <= {schedule}."
        )
    return range(args.min_timestep, stop)


def main(args: argparse.Namespace) -> None:
    """The run, in order: check, load, adapt, train, finish."""
    # 1. Everything that can be wrong, before anything is written
    run = RunFolder(args.output_dir)
    run.check(resume=args.resume_from_checkpoint is not None, overwrite=args.overwrite_output_dir)
    checkpoint = find_checkpoint(run.path, args.resume_from_checkpoint) if args.resume_from_checkpoint else None
    accelerator = make_accelerator(args)
    quiet = not accelerator.is_local_main_process
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    set_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    if args.enable_xformers_memory_efficient_attention:
        logger.warning("xformers isn't used: PyTorch's scaled_dot_product_attention saves the same memory.")

    parts = load_parts(
        args.pretrained_model_name_or_path, args.revision, args.variant, args.prediction_type, args.cache_dir
    )
    timesteps = parts.scheduler.config.num_train_timesteps
    trained = trained_timesteps(args, timesteps)
    resolution = args.resolution or parts.resolution
    if resolution % (parts.pixels_per_latent * 8):
        logger.warning("--resolution %d is no multiple of %d.", resolution, parts.pixels_per_latent * 8)
    images = load_images(
        args.train_data_dir,
        args.dataset_name,
        args.dataset_config_name,
        args.image_column,
        args.caption_column,
        args.max_train_samples,
        resolution,
        args.seed,
        args.cache_dir,
    )
    images, kept_out = images.split(args.validation_samples, args.seed) if args.validation_samples else (images, None)
    framing = Framing(resolution, args.center_crop, args.random_flip, args.image_interpolation_mode)
    random_framing = framing.is_random(images)
    if args.cache_latents and random_framing:
        raise ValueError("--cache_latents keeps one crop of a picture, but crops are random here. Add --center_crop.")

    # 2. Frozen models in the precision of the run, an adapter in float32; latents and embeddings once
    parts.to(accelerator.device, _DTYPES[accelerator.mixed_precision])
    adapter = add_reslora(parts.unet, lora_config(args))
    optimizer = make_optimizer(args, adapter, accelerator.num_processes)
    if args.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
    cache = args.cache_latents if args.cache_latents is not None else not random_framing
    batches = BatchMaker(
        Encoder(parts, images, framing, cache, quiet),
        args.train_batch_size,
        args.seed,
        timesteps,
        accelerator.num_processes,
        accelerator.process_index,
        args.noise_offset,
        trained,
    )
    held = None
    if kept_out is not None and accelerator.is_main_process:
        centred = Framing(resolution, center_crop=True, interpolation=args.image_interpolation_mode)
        encoder = Encoder(parts, kept_out, centred, cache=True, quiet=quiet)
        held = BatchMaker(encoder, min(args.train_batch_size, len(kept_out)), args.seed, timesteps, trained=trained)

    # 3. Steps and schedule are counted in optimizer steps of all processes together
    pictures_a_step = args.train_batch_size * args.gradient_accumulation_steps * accelerator.num_processes
    steps_of_epoch = math.ceil(len(images) / pictures_a_step)
    total = args.max_train_steps or args.num_train_epochs * steps_of_epoch
    lr_scheduler = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=total
    )
    validation, every = make_validation(args, steps_of_epoch, resolution)

    if accelerator.distributed_type == "DEEPSPEED":
        plugin = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = args.train_batch_size
    unet, optimizer = accelerator.prepare(parts.unet, optimizer)
    accelerator.register_for_checkpointing(lr_scheduler)  # prepared, it would step once a process
    register_adapter(accelerator, adapter)
    done = 0
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        done = step_of(checkpoint)
    if accelerator.is_main_process:
        run.create(describe(args, parts, adapter, len(images), images.name, total), done)
        if validation:
            save_real_pictures(run, validation.prompts, images, kept_out, resolution)
        logger.info("%s: %s", args.method, adapter.link_plan().summary())
        logger.info("%s trainable parameters, %d pictures", f"{adapter.num_parameters():,}", len(images))
    if accelerator.log_with:
        accelerator.init_trackers("text2image-reslora", config={k: str(v) for k, v in public(args).items()})
    if validation and every and done == 0 and accelerator.is_main_process:
        validation.save(validation.draw(parts.pipeline()), run, 0, "unmerged")
    check_every = every or steps_of_epoch

    # 4. The loop
    unet.train()
    dtype = _DTYPES[accelerator.mixed_precision]
    bar = tqdm(range(done, total), initial=done, total=total, desc=args.method, disable=quiet)
    for step in until_stopped(bar, heed=accelerator.num_processes == 1):
        started = time.perf_counter()
        loss_sum = torch.zeros((), device=accelerator.device)
        for micro in range(step * args.gradient_accumulation_steps, (step + 1) * args.gradient_accumulation_steps):
            with accelerator.accumulate(unet):
                batch = batches(micro).to(accelerator.device, dtype)
                loss = diffusion_loss(
                    unet, parts.scheduler, batch.latents, batch.embeddings, batch.noise, batch.timesteps, args.snr_gamma
                )
                loss_sum += loss.detach() / args.gradient_accumulation_steps
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    mean_loss = float(accelerator.reduce(loss_sum, "mean"))
                    check_loss(mean_loss, step + 1, run.path, "a broken picture")
                    norm = accelerator.clip_grad_norm_(list(adapter.parameters()), args.max_grad_norm)
                    used_lr = lr_scheduler.get_last_lr()[0]
                optimizer.step()
                if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                    lr_scheduler.step()
                optimizer.zero_grad()
        now = step + 1
        seconds = time.perf_counter() - started
        row = {
            "loss": mean_loss,
            "lr": used_lr,
            "grad_norm": finite(norm),
            "seconds": round(seconds, 4),
            "memory": peak_memory_mb(),
        }
        bar.set_postfix(loss=f"{mean_loss:.4f}")
        if held is not None and (now % check_every == 0 or now == total):
            rounds = max(1, len(held.encoder.images) // held.batch_size)
            row["validation_loss"] = validation_loss(parts.unet, parts.scheduler, map(held, range(rounds)))
        accelerator.log({key: value for key, value in row.items() if value is not None}, step=now)
        if accelerator.is_main_process:
            run.log(step=now, **row)
        if now - done == _MUST_LEARN_BY and used_lr > 0:
            check_learning(adapter, now)
        if now % args.checkpointing_steps == 0:
            save_checkpoint(accelerator, run.path, now, args.checkpoints_total_limit)
        if validation and every and accelerator.is_main_process and (now % every == 0 or now == total):
            validation.save(validation.draw(parts.pipeline()), run, now, "unmerged")
    if done < total and now < total:
        save_checkpoint(accelerator, run.path, now, args.checkpoints_total_limit)
        print(f"Stopped after step {now} of {total}. Go on with --resume_from_checkpoint latest.")
        accelerator.end_training()
        return

    # 5. Merge, export, prove
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        result = finish(
            adapter,
            parts,
            batches,
            held,
            run,
            args.merge_approach,
            validation,
            step=max(done, total),
            drawn=max(done, total) * args.gradient_accumulation_steps,
            rank=args.merge_rank,
            calibration_samples=args.calibration_samples,
        )
        print_result(run, result)
        if args.push_to_hub:
            push_to_hub(args, run)
    del unet
    leave_process_group(accelerator)


def cli() -> None:
    """The command reslora-train."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    # their advice is about parts that we don't use, and their bars hide ours
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    try:
        main(parse_arguments())
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    cli()
