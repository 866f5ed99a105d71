"""Train a tiny Stable Diffusion (64x64 drawings, 8.7 M parameters) from captioned pictures, on a CPU.

    python train_scripts/pretrain_tiny_sd.py --data_dir DATA --output_dir runs/tiny-sd --unet_minutes 240

First an autoencoder, then, on its cached latents, text encoder and U-Net together (v-prediction, zero terminal SNR).
OUTPUT_DIR then holds `pipeline/` (a plain diffusers folder in float16, rewritten at every checkpoint), `samples/`
(a sheet a checkpoint), `vae/` and `denoiser/` (checkpoints, `log.jsonl`).

Interrupted? The same command with `--resume` goes on from the last checkpoint; with `--vae_steps` and `--unet_steps`
the result is that of a straight run, bit for bit. With more `--unet_minutes`, `--resume` goes on with a finished run.
About 20 drawings a second on two cores that others use as well.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslora_sd.pretrain import data as pretrain_data
from reslora_sd.pretrain import models as pretrain_models
from reslora_sd.pretrain import vae as pretrain_vae
from reslora_sd.pretrain.data import Drawings
from reslora_sd.pretrain.denoiser import CaptionedLatents, CaptionPlan, VelocityLoss
from reslora_sd.pretrain.loop import Stage, StageSettings
from reslora_sd.pretrain.samples import SHEET_PROMPTS, sample_pictures, write_sheet
from reslora_sd.pretrain.synthetic import synthetic_drawings
from reslora_sd.runs.atomic import replacing

RARE_WORDS = "man woman person men women people boy girl couple family kiss o\u2019clock".split()
"""Of names in dozens of variants, of which a small model can't show the difference."""


def stage_settings(args: argparse.Namespace, stage: str) -> StageSettings:
    """The loop's settings for stage `vae` or `unet`; steps, where given, come before minutes."""
    steps, minutes = getattr(args, f"{stage}_steps"), getattr(args, f"{stage}_minutes")
    batch_size = getattr(args, f"{stage}_batch_size")
    if batch_size % args.workers:
        raise ValueError(
            f"The {stage} batch of {batch_size} cannot be shared among {args.workers} workers. "
            f"Set --{stage}_batch_size to a multiple of --workers."
        )
    return StageSettings(
        learning_rate=getattr(args, f"{stage}_learning_rate"),
        batch_size=batch_size,
        max_steps=steps,
        budget_seconds=60 * minutes if steps is None else None,
        warmup_steps=args.warmup_steps,
        ema_decay=getattr(args, f"{stage}_ema"),
        save_every=args.save_every,
        log_every=args.log_every,
        workers=args.workers,
    )


def start(stage: Stage, resume: bool) -> None:
    """Make the stage's folder, and take up its checkpoint if that is wanted; raises `FileExistsError` if it
    is not.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    if stage.checkpoint.is_file() and not resume:
        raise FileExistsError(
            f"{stage.checkpoint} is the checkpoint of an earlier run. "
            "Pass --resume to go on with it, or another --output_dir to start anew."
        )
    if stage.resume():
        print(f"{stage.name}: resumed at step {stage.step}, {100 * stage.progress:.1f} % done", flush=True)


def train_vae(args: argparse.Namespace, drawings: Drawings, kept: Drawings) -> Any:
    """The first stage: returns the autoencoder with averaged weights."""
    torch.manual_seed(args.seed)
    vae = pretrain_vae.build_vae(args.vae_channels, args.vae_layers, args.latent_channels, args.size)
    modules = nn.ModuleDict({"vae": vae.to(memory_format=torch.channels_last)})
    stage = Stage("vae", modules, stage_settings(args, "vae"), Path(args.output_dir, "vae"), args.seed)
    start(stage, args.resume)
    averaged = stage.averaged["vae"]
    if stage.progress < 1:
        made = synthetic_drawings(args.synthetic_drawings, args.size, args.seed)
        loss = pretrain_vae.ReconstructionLoss(
            drawings.pictures,
            made,
            share=args.synthetic_share,
            batch_size=args.vae_batch_size // args.workers,
            kl_weight=args.kl_weight,
            bf16=not args.no_bf16,
        )

        def report(_: Stage) -> None:
            shown = (kept if len(kept) else drawings).pictures[:200]
            decibels = pretrain_vae.reconstruction_psnr(averaged, shown).mean().item()
            print(f"vae: {decibels:.2f} dB on {len(shown)} drawings", flush=True)

        stage.run(loss, on_save=report)
    return averaged


def load_vae(folder: str) -> Any:
    """The trained autoencoder of the pipeline folder `folder`, in float32."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(Path(folder, "vae")).float().eval().requires_grad_(False)


def cached_latents(args: argparse.Namespace, vae: Any, drawings: Drawings) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every drawing's latents, scaled to unit variance; written to a file, and read
    back.
    """
    file = Path(args.output_dir, "latents.pt")
    checksum = float(sum(parameter.double().abs().sum() for parameter in vae.parameters()))
    checksum += float(drawings.pictures.double().sum())
    if file.is_file():
        cache = torch.load(file, weights_only=True)
        if cache["checksum"] == checksum:
            vae.register_to_config(scaling_factor=cache["scale"])
            return cache["mean"] * cache["scale"], cache["deviation"] * cache["scale"]
    mean, deviation = pretrain_vae.encode_drawings(vae, drawings.pictures)
    scale = 1.0 / mean.std().item()
    cache = {"mean": mean, "deviation": deviation, "scale": scale, "checksum": checksum}
    with replacing(file) as temporary:
        torch.save(cache, temporary)
    vae.register_to_config(scaling_factor=scale)
    return mean * scale, deviation * scale


def build_denoiser(args: argparse.Namespace, captions: list[str]) -> tuple[Any, nn.ModuleDict]:
    """(tokenizer, text encoder and U-Net), new or from the pipeline folder `--init_from`."""
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(args.seed + 1)
    if args.init_from:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(Path(args.init_from, "tokenizer"))
        text_encoder = CLIPTextModel.from_pretrained(Path(args.init_from, "text_encoder")).float()
        unet = UNet2DConditionModel.from_pretrained(Path(args.init_from, "unet")).float()
        if unet.config.in_channels != args.latent_channels:
            raise ValueError(
                f"The U-Net of {args.init_from} takes {unet.config.in_channels} latent channels, "
                f"--latent_channels is {args.latent_channels}. Set it so, or leave out --init_from."
            )
    else:
        tokenizer = pretrain_models.train_tokenizer(captions, args.vocabulary, args.tokens)
        text_encoder = pretrain_models.build_text_encoder(tokenizer, args.text_width, args.text_layers)
        latent_size = args.size // 2 ** (len(args.vae_channels) - 1)
        unet = pretrain_models.build_unet(
            args.unet_channels, args.unet_layers, args.text_width, args.latent_channels, latent_size
        )
    unet.set_attn_processor(AttnProcessor())  # on a CPU, the fused attention's backward is a third of a step
    return tokenizer, nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})


def main(args: argparse.Namespace) -> None:
    """Data, first stage, latents, second stage, pipeline folder."""
    output_dir = Path(args.output_dir)
    pipeline_dir = Path(args.pipeline_dir or output_dir / "pipeline")
    drawings = pretrain_data.load_drawings(args.data_dir, args.size, leave_out_sets=args.leave_out_sets)
    drawings, kept = pretrain_data.split_by_name(drawings, args.left_out_names, args.seed)
    print(
        f"{len(drawings)} drawings of {len(set(drawings.names))} names, sets {sorted(set(drawings.sets))}; ",
        end="",
    )
    print(f"{len(kept)} drawings of {args.left_out_names} names left out", flush=True)

    vae = load_vae(args.vae_from) if args.vae_from else train_vae(args, drawings, kept)

    drawings = pretrain_data.with_white_margin(drawings)
    latents = cached_latents(args, vae, drawings)
    tokenizer, modules = build_denoiser(args, sorted({*drawings.captions, *drawings.sets}))
    set_order = args.set_order or sorted(set(drawings.sets))
    plan = CaptionPlan(
        leading_share=args.leading_share, rare_words=tuple(args.rare_words), frequent_names=tuple(args.frequent_names)
    )
    data = CaptionedLatents(drawings, latents, tokenizer, plan, set_order)
    alphas = pretrain_models.build_scheduler().alphas_cumprod
    loss = VelocityLoss(data, alphas, args.unet_batch_size // args.workers, bf16=not args.no_bf16)
    stage = Stage("denoiser", modules, stage_settings(args, "unet"), output_dir / "denoiser", args.seed)
    start(stage, args.resume)

    def write(stage: Stage) -> None:
        averaged = stage.averaged
        pipeline = pretrain_models.build_pipeline(vae, tokenizer, averaged["text_encoder"], averaged["unet"])
        pretrain_models.save_pipeline(pipeline, pipeline_dir, drawings.names)
        prompts = args.sample_prompts or list(SHEET_PROMPTS)
        pictures = sample_pictures(pipeline, prompts, args.sample_steps, args.guidance)
        write_sheet(pictures, prompts, output_dir / "samples" / f"step-{stage.step:06d}.png")

    stage.run(loss, on_save=write)
    write(stage)
    print(f"done: {pipeline_dir}", flush=True)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, folders, times and what to show."""
    add = parser.add_argument
    add("--data_dir", required=True, help="parquet files (`image`, `text`) or an imagefolder with metadata")
    add("--output_dir", required=True, help="checkpoints, samples and the pipeline folder go here")
    add("--pipeline_dir", help="write the pipeline folder here instead of OUTPUT_DIR/pipeline")
    add("--resume", action="store_true", help="go on from the checkpoints in OUTPUT_DIR")
    add("--init_from", help="a pipeline folder whose tokenizer, text encoder and U-Net to start from")
    add("--vae_from", help="a pipeline folder whose autoencoder to keep: the first stage is left out")
    add("--leave_out_sets", nargs="*", default=["openmoji"], help="sets that no stage may see")
    add("--set_order", nargs="*", help="whose drawing of a name leads: best set first (default: by alphabet)")
    add("--left_out_names", type=int, default=40, help="names that no stage may see, for the evaluation")
    add("--vae_minutes", type=float, default=30, help="minutes of work, pauses not counted")
    add("--unet_minutes", type=float, default=60, help="minutes of work, pauses not counted")
    add("--vae_steps", type=int, help="instead of --vae_minutes")
    add("--unet_steps", type=int, help="instead of --unet_minutes")
    add("--sample_prompts", nargs="*", help="prompts of the sheet (default: sixteen names)")
    add("--sample_steps", type=int, default=25)
    add("--guidance", type=float, default=4.0)
    add("--save_every", type=int, default=250)
    add("--log_every", type=int, default=50)
    add("--workers", type=int, default=os.cpu_count() or 1, help="threads that share each batch")
    add("--seed", type=int, default=0)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the models and how they learn; the defaults are the shipped model's."""
    add = parser.add_argument
    add("--size", type=int, default=64, help="pixels")
    add("--vae_channels", type=int, nargs="+", default=[16, 48, 96])
    add("--vae_layers", type=int, default=1)
    add("--latent_channels", type=int, default=4)
    add("--kl_weight", type=float, default=2e-4, help="of the autoencoder's KL term")
    add("--synthetic_drawings", type=int, default=12000, help="made in code, for the autoencoder only")
    add("--synthetic_share", type=float, default=0.35, help="share of them in the autoencoder's batches")
    add("--leading_share", type=float, default=0.85, help="how often a name shows its leading drawing")
    add("--rare_words", nargs="*", default=RARE_WORDS, help="names with one of these are drawn a third as often")
    add("--frequent_names", nargs="*", default=list(SHEET_PROMPTS), help="names that are drawn three times as often")
    add("--unet_channels", type=int, nargs="+", default=[64, 128])
    add("--unet_layers", type=int, default=2)
    add("--text_width", type=int, default=128)
    add("--text_layers", type=int, default=3)
    add("--tokens", type=int, default=24)
    add("--vocabulary", type=int, default=3223)
    add("--vae_batch_size", type=int, default=16)
    add("--unet_batch_size", type=int, default=32)
    add("--vae_learning_rate", type=float, default=3e-3)
    add("--unet_learning_rate", type=float, default=2e-3)
    add("--vae_ema", type=float, default=0.997)
    add("--unet_ema", type=float, default=0.998)
    add("--warmup_steps", type=int, default=100)
    add("--no_bf16", action="store_true", help="float32 throughout, instead of bfloat16 products")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    add_recipe_arguments(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parse_args())
