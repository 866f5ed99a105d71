"""Train a tiny Stable Diffusion (64x64 drawings, 8.7 M parameters) from captioned pictures.

    python train_scripts/pretrain_tiny_sd.py --data_dir DATA --output_dir runs/tiny-sd --unet_minutes 240

First an autoencoder, then, on its cached latents, text encoder and U-Net together (v-prediction, zero terminal SNR).
OUTPUT_DIR then holds `pipeline/` (a plain diffusers folder in float16, rewritten at every checkpoint), `samples/`
(a sheet a checkpoint), `vae/` and `denoiser/` (checkpoints, `log.jsonl`).

Interrupted? The same command with `--resume` goes on from the last checkpoint; with `--vae_steps` and `--unet_steps`
the result is that of a straight run, on a CPU bit for bit. With more `--unet_minutes`, `--resume` goes on with a
finished run.
About 20 drawings a second on two cores that others use as well; where there is an accelerator, it is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslora_sd.pretrain import data as pretrain_data
from reslora_sd.pretrain import models as pretrain_models
from reslora_sd.pretrain import vae as pretrain_vae
from reslora_sd.pretrain.data import Drawings
from reslora_sd.pretrain.denoiser import CaptionedLatents, Latents, VelocityLoss, rows_by_name
from reslora_sd.pretrain.loop import Stage
from reslora_sd.pretrain.recolour import COLOURS, recoloured, recoloured_captions
from reslora_sd.pretrain.samples import sample_pictures, write_sheet
from reslora_sd.pretrain.settings import LoopSettings, ModelSettings, PretrainSettings, VaeSettings, parse_settings
from reslora_sd.pretrain.synthetic import synthetic_drawings
from reslora_sd.runs.atomic import replacing
from reslora_sd.training.command import run_command


def train_vae(
    pictures: Tensor, shown: Tensor, model: ModelSettings, vae: VaeSettings, loop: LoopSettings, folder: Path
) -> Any:
    """The first stage: returns the autoencoder with averaged weights.

    Args:
        pictures: to learn from.  (n, 3, size, size) uint8
        shown: to measure decibels on, at every checkpoint.
    """
    torch.manual_seed(loop.seed)
    size = pictures.shape[-1]
    built = pretrain_vae.build_vae(model.vae_channels, model.vae_layers, model.latent_channels, size)
    modules = nn.ModuleDict({"vae": built.to(loop.device, memory_format=torch.channels_last)})
    stage = Stage("vae", modules, vae.stage(loop), folder, loop.seed, loop.resume)
    averaged = stage.averaged["vae"]
    if stage.progress < 1:
        loss = pretrain_vae.ReconstructionLoss(
            pictures,
            synthetic_drawings(vae.synthetic_drawings, size, loop.seed),
            share=vae.synthetic_share,
            batch_size=vae.vae_batch_size // loop.threads,
            kl_weight=vae.kl_weight,
            bf16=not loop.no_bf16,
        )

        def report(_: Stage) -> None:
            decibels = pretrain_vae.reconstruction_psnr(averaged, shown).mean().item()
            print(f"vae: {decibels:.2f} dB on {len(shown)} drawings", flush=True)

        stage.run(loss, on_save=report)
    return averaged


def load_vae(folder: str) -> Any:
    """The trained autoencoder of the pipeline folder `folder`, in float32."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(Path(folder, "vae")).float().eval().requires_grad_(False)


def cached_latents(file: Path, vae: Any, key: list[float], pictures: Callable[[], Tensor]) -> Latents:
    """Mean and deviation of pictures' latents, unscaled; written to `file`, and read back for the same vae and key."""
    key = [float(sum(parameter.double().abs().sum() for parameter in vae.parameters())), *key]
    if file.is_file():
        cache = torch.load(file, weights_only=True)
        if cache["key"] == key:
            return cache["mean"], cache["deviation"]
    mean, deviation = pretrain_vae.encode_drawings(vae, pictures())
    with replacing(file) as temporary:
        torch.save({"mean": mean, "deviation": deviation, "key": key}, temporary)
    return mean, deviation


def captioned_latents(settings: PretrainSettings, drawings: Drawings, vae: Any, tokenizer: Any) -> CaptionedLatents:
    """The drawings' latents and those of their recolourings; sets the scale of an autoencoder that has none yet."""
    loop, plan, output_dir = settings.loop, settings.captions, Path(settings.output.output_dir)
    set_order = plan.set_order or sorted(set(drawings.sets))
    key = [float(drawings.pictures.double().sum())]
    latents = cached_latents(output_dir / "latents.pt", vae, key, lambda: drawings.pictures)
    if not settings.model.vae_from:
        vae.register_to_config(scaling_factor=1.0 / latents[0].std().item())
    scale = float(vae.config.scaling_factor)
    others = None
    if plan.recolourings:
        leading = [rows[0] for rows in rows_by_name(drawings, set_order)]
        count = plan.recolourings
        captions = recoloured_captions(drawings, leading, count, loop.seed)
        mean, deviation = cached_latents(
            output_dir / "recoloured.pt",
            vae,
            [*key, count, loop.seed, *leading],
            lambda: recoloured(drawings, leading, count, loop.seed, os.cpu_count() or 1).flatten(0, 1),
        )
        others = captions, (scale * mean, scale * deviation)
    scaled = scale * latents[0], scale * latents[1]
    return CaptionedLatents(drawings, scaled, tokenizer, plan.plan, set_order, others, loop.device)


def own_tokenizer(folder: Path, model: ModelSettings, captions: list[str], resume: bool) -> Any:
    """A tokenizer learned from the captions and kept in `folder`; a resumed run takes up the kept one.

    Learning it again would not give the same one: ties between byte pairs fall as they fall.
    """
    from transformers import CLIPTokenizer

    if resume and folder.is_dir():
        return CLIPTokenizer.from_pretrained(folder)
    tokenizer = pretrain_models.train_tokenizer(captions, model.vocabulary, model.tokens)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_denoiser(
    model: ModelSettings, loop: LoopSettings, captions: list[str], size: int, output_dir: Path
) -> tuple[Any, nn.ModuleDict]:
    """(tokenizer, text encoder and U-Net), new or from the pipeline folder `--init_from`."""
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(loop.seed + 1)
    if model.init_from:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(Path(model.init_from, "tokenizer"))
        text_encoder = CLIPTextModel.from_pretrained(Path(model.init_from, "text_encoder")).float()
        unet = UNet2DConditionModel.from_pretrained(Path(model.init_from, "unet")).float()
        if unet.config.in_channels != model.latent_channels:
            raise ValueError(
                f"The U-Net of {model.init_from} takes {unet.config.in_channels} latent channels, "
                f"--latent_channels is {model.latent_channels}. Set it so, or leave out --init_from."
            )
    else:
        tokenizer = own_tokenizer(output_dir / "tokenizer", model, captions, loop.resume)
        text_encoder = pretrain_models.build_text_encoder(tokenizer, model.text_width, model.text_layers)
        latent_size = size // 2 ** (len(model.vae_channels) - 1)
        unet = pretrain_models.build_unet(
            model.unet_channels, model.unet_layers, model.text_width, model.latent_channels, latent_size
        )
    if loop.device == "cpu":
        unet.set_attn_processor(AttnProcessor())  # the fused attention's backward is a third of a step there
    return tokenizer, nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(loop.device)


def main(settings: PretrainSettings) -> None:
    """Data, first stage, latents, second stage, pipeline folder."""
    data, model, loop, output = settings.data, settings.model, settings.loop, settings.output
    output_dir = Path(output.output_dir)
    drawings = pretrain_data.load_drawings(data.data_dir, data.size, leave_out_sets=data.leave_out_sets)
    drawings, kept = pretrain_data.split_by_name(drawings, data.left_out_names, loop.seed)
    print(
        f"{len(drawings)} drawings of {len(set(drawings.names))} names, sets {sorted(set(drawings.sets))}; "
        f"{len(kept)} drawings of {data.left_out_names} names left out",
        flush=True,
    )

    if model.vae_from:
        vae = load_vae(model.vae_from).to(loop.device)
    else:
        shown = (kept if len(kept) else drawings).pictures[:200]
        vae = train_vae(drawings.pictures, shown, model, settings.vae, loop, output_dir / "vae")

    drawings = pretrain_data.with_white_margin(drawings)
    names = sorted({*drawings.captions, *drawings.sets, *(COLOURS if settings.captions.recolourings else ())})
    tokenizer, modules = build_denoiser(model, loop, names, data.size, output_dir)
    loss = VelocityLoss(
        captioned_latents(settings, drawings, vae, tokenizer),
        pretrain_models.build_scheduler().alphas_cumprod,
        settings.unet.unet_batch_size // loop.threads,
        bf16=not loop.no_bf16,
    )
    stage = Stage("denoiser", modules, settings.unet.stage(loop), output_dir / "denoiser", loop.seed, loop.resume)

    def write(stage: Stage) -> None:
        averaged = stage.averaged
        pipeline = pretrain_models.build_pipeline(vae, tokenizer, averaged["text_encoder"], averaged["unet"])
        pretrain_models.save_pipeline(pipeline, output.pipeline_folder, drawings.names)
        pictures = sample_pictures(pipeline, output.prompts, output.sample_steps, output.guidance)
        write_sheet(pictures, output.prompts, output_dir / "samples" / f"step-{stage.step:06d}.png")

    stage.run(loss, on_save=write)
    write(stage)
    print(f"done: {output.pipeline_folder}", flush=True)


def cli() -> None:
    """The command line."""
    run_command(lambda: main(parse_settings()))


if __name__ == "__main__":
    cli()
