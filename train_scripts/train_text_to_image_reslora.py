"""Fine-tunes the U-Net of Stable Diffusion with LoRA or ResLoRA, merges, and proves the result in a fresh pipeline.

    accelerate launch train_scripts/train_text_to_image_reslora.py

teaches the embedded model a style, from 60 drawings: 200 steps, one to two minutes on two cores. On your own pictures:

    python train_scripts/train_text_to_image_reslora.py --train_data_dir my_pictures

and on your own pictures with a real model:

    accelerate launch train_scripts/train_text_to_image_reslora.py \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --train_data_dir my_pictures --method reslora_is --max_train_steps 1000 --mixed_precision fp16 \
        --validation_prompts "a photo of my dog on a beach" --validation_steps 100

Expect in OUTPUT_DIR: pytorch_lora_weights.safetensors, which StableDiffusionPipeline.load_lora_weights takes with
this package not installed; validation/*.png; merge_report.json; log.jsonl with a loss that falls slowly and noisily.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, ProjectConfiguration, set_seed
from tqdm.auto import tqdm

from reslora_sd.diffusion.adapters import Adapters, add_adapters
from reslora_sd.diffusion.arguments import parse_settings, to_arguments
from reslora_sd.diffusion.batches import BatchMaker, KeptOut, batches_kept_out, length_of, training_batches
from reslora_sd.diffusion.checkpoints import load_checkpoint, register_adapter, save_checkpoint
from reslora_sd.diffusion.conditioning import chunks_of
from reslora_sd.diffusion.effort import effort_of
from reslora_sd.diffusion.emphasis import emphasis_of
from reslora_sd.diffusion.encodings import encodings_of
from reslora_sd.diffusion.export import exporter_of
from reslora_sd.diffusion.finish import finish
from reslora_sd.diffusion.forecast import Forecast, forecast_of
from reslora_sd.diffusion.framing import say_shapes
from reslora_sd.diffusion.loss import diffusion_loss
from reslora_sd.diffusion.models import Parts, load_parts
from reslora_sd.diffusion.optimizer import make_optimizer, make_schedule
from reslora_sd.diffusion.precision import fit_threads, frozen_dtype
from reslora_sd.diffusion.preparing import prepare_data
from reslora_sd.diffusion.reference_pictures import save_reference_pictures
from reslora_sd.diffusion.reports import check_services, describe, finite, print_result, push_to_hub
from reslora_sd.diffusion.resuming import as_it_began, find_resumed
from reslora_sd.diffusion.saved_loras import LoRASaver, save_every
from reslora_sd.diffusion.settings import TrainingSettings, UnetSettings
from reslora_sd.diffusion.starting import start_of
from reslora_sd.diffusion.validation import Validation, validation_loss, validation_of
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.lock import as_only_writer
from reslora_sd.runs.names import TRACKER, UNMERGED
from reslora_sd.runs.stopping import until_stopped
from reslora_sd.training.checks import check_loss, check_trained, peak_memory_mb
from reslora_sd.training.command import quiet_libraries, run_command
from reslora_sd.training.distributed import (
    asked_anywhere,
    check_accumulation,
    check_prepared_accumulation,
    leave_process_group,
)
from reslora_sd.training.resuming import own_rates

logger = logging.getLogger("reslora_sd")
_MUST_LEARN_BY = 10  # optimizer steps with a learning rate above zero


def make_accelerator(settings: UnetSettings) -> Accelerator:
    """accelerate's settings for this run; nothing is written yet."""
    output, accumulated = settings.output, settings.training.gradient_accumulation_steps
    check_accumulation(accumulated)
    return Accelerator(
        # given as a plugin, the launcher's variable doesn't win over it
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulated),
        mixed_precision=settings.training.mixed_precision,
        log_with=None if output.report_to == "none" else output.report_to,
        project_config=ProjectConfiguration(
            project_dir=output.output_dir, logging_dir=str(Path(output.output_dir, output.logging_dir))
        ),
        # every parameter of the adapter gets a gradient in every step
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )


def draw(validation: Validation, parts: Parts, run: RunFolder, step: int, forecast: Forecast) -> None:
    """The pictures of a step, unmerged."""
    with forecast.drawing():
        validation.save(validation.draw(parts.pipeline()), run, step, UNMERGED)


@dataclass(frozen=True)
class OptimizerStep:
    """One optimizer step: batches, losses, gradients, clipping, AdamW, schedule."""

    accelerator: Accelerator
    unet: torch.nn.Module
    """As accelerate prepared it."""
    parts: Parts
    adapters: Adapters
    optimizer: Any
    lr_scheduler: Any
    batches: BatchMaker
    training: TrainingSettings
    max_grad_norm: float
    folder: Path
    """Of the run, for errors."""

    def __call__(self, step: int) -> dict[str, float | None]:
        """Trains step `step`, counted from 0; gives its row for the log."""
        accelerator, accumulated = self.accelerator, self.training.gradient_accumulation_steps
        started, waited = time.perf_counter(), self.batches.waited
        loss_sum = torch.zeros((), device=accelerator.device)
        row: dict[str, float | None] = {}
        for micro in range(step * accumulated, (step + 1) * accumulated):
            with accelerator.accumulate(self.unet):
                batch = self.batches(micro).to(accelerator.device, self.parts.dtype)
                loss = diffusion_loss(
                    self.unet,
                    self.parts.scheduler,
                    batch.latents,
                    batch.conditioning,
                    batch.noise,
                    batch.timesteps,
                    self.training.snr_gamma,
                    batch.weights,
                )
                loss_sum += loss.detach() / accumulated
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    self.adapters.share_gradients(accelerator)
                    mean = float(accelerator.reduce(loss_sum, "mean"))
                    check_loss(mean, step + 1, self.folder, "a broken picture")
                    norm = accelerator.clip_grad_norm_(list(self.adapters.parameters()), self.max_grad_norm)
                    row = {"loss": mean, "lr": self.lr_scheduler.get_last_lr()[0], "grad_norm": finite(norm)}
                self.optimizer.step()
                if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                    self.lr_scheduler.step()
                self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        row |= {"seconds": round(seconds, 4), "waiting": round((self.batches.waited - waited) / seconds, 4)}
        return {**row, "memory": peak_memory_mb()}


@as_only_writer(lambda settings: settings.output.output_dir)
def main(settings: UnetSettings) -> None:
    """The run, in order: check, load, adapt, train, finish."""
    # 1. Whatever can be wrong is found before anything is written
    run = RunFolder(settings.output.output_dir)
    checkpoint = find_resumed(run, settings)
    settings = as_it_began(run, checkpoint, settings)
    output, training = settings.output, settings.training
    start = start_of(settings, run, checkpoint)
    check_services(output)
    accelerator = make_accelerator(settings)
    quiet = not accelerator.is_local_main_process
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    set_seed(training.seed)
    torch.backends.cuda.matmul.allow_tf32 = training.allow_tf32
    if training.enable_xformers_memory_efficient_attention:
        logger.warning("xformers isn't used: PyTorch's scaled_dot_product_attention saves the same memory.")
    model = settings.model
    started = time.perf_counter()
    parts = load_parts(model.pretrained_model_name_or_path, **model.to_load())
    load_seconds = time.perf_counter() - started
    training.timesteps(parts.scheduler.config.num_train_timesteps)
    resolution = settings.data.resolution or parts.resolution
    parts.check_resolution(resolution)
    parts.chunks = chunks_of(parts, settings.data.max_token_length)
    parts.to(accelerator.device, frozen_dtype(accelerator))
    parts.encodings = encodings_of(model.cache_dir, parts)
    split, framing = prepare_data(settings, parts, resolution, accelerator, run, checkpoint, start)
    images = split.training

    # 2. Frozen models in the precision of the run, an adapter in float32; latents and embeddings once
    fit_threads(parts.unet, accelerator.device)
    adapters = add_adapters(parts, settings, accelerator.distributed_type)
    start.check(adapters)
    processes, rank = accelerator.num_processes, accelerator.process_index
    batches = training_batches(settings, parts, images, framing, processes, rank, quiet, accelerator.wait_for_everyone)
    kept_out = KeptOut()
    if accelerator.is_main_process:
        kept_out = batches_kept_out(training, parts, split, framing, emphasis_of(settings.data))
    held = kept_out.validation

    # 3. Steps and schedule are counted in optimizer steps of all processes together
    pictures_a_step = training.train_batch_size * training.gradient_accumulation_steps * accelerator.num_processes
    total, steps_of_epoch = length_of(training, batches, pictures_a_step)
    about_start = start.into(adapters, parts, batches, total * training.gradient_accumulation_steps)
    optimizer = make_optimizer(settings.optimizer, adapters, pictures_a_step)
    lr_scheduler = make_schedule(settings.optimizer, optimizer, total)
    validation, every = validation_of(settings, images, steps_of_epoch, resolution)
    exporter = exporter_of(settings, parts, images, total, pictures_a_step, resolution)
    forecast = forecast_of(settings, total, load_seconds, validation, every)
    if accelerator.distributed_type == "DEEPSPEED":
        plugin = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = training.train_batch_size
    unet, optimizer = accelerator.prepare(parts.unet, optimizer)
    check_prepared_accumulation(accelerator, training.gradient_accumulation_steps)
    register_adapter(accelerator, adapters, lr_scheduler)
    done = 0
    if checkpoint is not None:
        with own_rates(optimizer, lr_scheduler):
            done = load_checkpoint(accelerator, checkpoint)
    if accelerator.is_main_process:
        run.start({**describe(settings, parts, adapters, images, total), **about_start}, checkpoint)
        if validation:
            save_reference_pictures(run, validation.prompts, images, split.kept_out, resolution)
        logger.info("%s: %s", settings.method.method, adapters.summary())
        shapes = say_shapes(images, framing)
        logger.info("%s trainable parameters, %d pictures%s", f"{adapters.num_parameters():,}", len(images), shapes)
    if accelerator.log_with:
        config = {name: str(value) for name, value in to_arguments(settings).items()}
        accelerator.init_trackers(TRACKER, config=config)
    if validation and every and done == 0 and accelerator.is_main_process:
        draw(validation, parts, run, 0, forecast)
    check_every = every or steps_of_epoch
    saver = LoRASaver(save_every(settings, steps_of_epoch), adapters, parts, batches, exporter, run, settings)

    # 4. The loop
    unet.train()
    accumulated, max_norm = training.gradient_accumulation_steps, settings.optimizer.max_grad_norm
    batches.ahead(done * accumulated, total * accumulated, training.dataloader_num_workers)
    train_step = OptimizerStep(
        accelerator, unet, parts, adapters, optimizer, lr_scheduler, batches, training, max_norm, run.path
    )
    bar = tqdm(range(done, total), initial=done, total=total, desc=settings.method.method, disable=quiet)
    for step in until_stopped(bar, asked_anywhere(accelerator)):
        row, now = train_step(step), step + 1
        if not quiet:
            forecast.after_step(now, row["seconds"] or 0.0, bar.write)
        bar.set_postfix(loss=f"{row['loss']:.4f}")
        if held is not None and (now % check_every == 0 or now == total):
            rounds = max(1, len(held.encoded.images) // held.batch_size)
            loss = validation_loss(parts.unet, parts.scheduler, map(held, range(rounds)))
            row["validation_loss"] = check_trained(loss, "the pictures kept out", run.path)
        accelerator.log({key: value for key, value in row.items() if value is not None}, step=now)
        if accelerator.is_main_process:
            run.log(step=now, **row)
        if now - done == _MUST_LEARN_BY and row["lr"]:
            adapters.check_learning(now)
        if validation and every and accelerator.is_main_process and (now % every == 0 or now == total):
            draw(validation, parts, run, now, forecast)
        if accelerator.is_main_process:
            saver.after_step(now, bar.write)
        if now % output.checkpointing_steps == 0:  # after all else that the step writes: see RunFolder
            save_checkpoint(accelerator, run, now, output.checkpoints_total_limit)
    if done < total and now % output.checkpointing_steps:
        save_checkpoint(accelerator, run, now, output.checkpoints_total_limit)
    if done < total and now < total:
        accelerator.print(f"Stopped after step {now} of {total}. Go on with --resume_from_checkpoint latest.")
        del unet, train_step  # DDP has to go before its process group
        leave_process_group(accelerator)
        return

    # 5. Merge, export, prove
    accelerator.wait_for_everyone()
    drawn = max(done, total) * accumulated
    if accelerator.is_main_process:
        result = finish(
            adapters,
            parts,
            batches,
            kept_out,
            run,
            settings.method.approach,
            validation,
            effort_of(settings, drawn),
            exporter,
            step=max(done, total),
            drawn=drawn,
            rank=settings.method.merge_rank,
        )
        print_result(run, result, parts)
        if output.push_to_hub:
            push_to_hub(output, run)
    del unet, train_step
    leave_process_group(accelerator)


def cli() -> None:
    """The command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    quiet_libraries()
    run_command(lambda: main(parse_settings()))


if __name__ == "__main__":
    cli()
