"""Loads the parts of a Stable Diffusion pipeline, with errors that name the part."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..assets import DEFAULT_MODEL as DEFAULT_MODEL
from .model_sources import FolderOrHub, Source, source_of
from .tokenizers import read_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.getLogger("reslora_sd")


@dataclass
class Parts:
    """A Stable Diffusion 1.x or 2.x model, frozen, in float32 on the CPU."""

    name: str
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    """The model's own noise schedule, as DDPM training uses it."""
    source: Source
    relabelled: bool = False
    """Whether `scheduler` has another prediction type than diffusers alone samples the model with."""

    @property
    def resolution(self) -> int:
        """Pixels of a side that the model was made for."""
        return int(self.unet.config.sample_size * self.pixels_per_latent)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of a side for one latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights; an adapter in the U-Net has its own."""
        dtype: torch.dtype = self.vae.dtype
        return dtype

    def check_resolution(self, resolution: int) -> None:
        """Whether the VAE and diffusers' pipeline take pictures of so many pixels a side.

        Raises:
            ValueError: they don't.
        """
        multiple = max(self.pixels_per_latent, 8)  # the pipeline asks for 8 whatever the VAE
        if resolution % multiple:
            below, above = resolution // multiple * multiple, -(-resolution // multiple) * multiple
            nearest = f"{below} or {above}" if below else f"{above}"
            raise ValueError(
                f"--resolution is {resolution}. It must be a multiple of {multiple} for this model: take {nearest}."
            )
        if resolution % (self.pixels_per_latent * 8):
            logger.warning("--resolution %d is no multiple of %d.", resolution, self.pixels_per_latent * 8)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves and casts the three models."""
        for model in (self.text_encoder, self.vae, self.unet):
            model.to(device)
            if dtype != model.dtype:
                model.to(dtype)

    def pipeline(self, fresh_unet: bool = False) -> StableDiffusionPipeline:
        """A pipeline of these very modules, with the model's own sampler and without a second copy of anything.

        The sampler has the prediction type of `scheduler`.

        Args:
            fresh_unet: read the U-Net anew from the model's files, in the precision of this one.
        """
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel

        unet = self.source.load("unet", UNet2DConditionModel, self.dtype) if fresh_unet else self.unet
        parts: dict[str, Any] = {
            "tokenizer": self.tokenizer,
            "text_encoder": self.text_encoder,
            "vae": self.vae,
            "unet": unet,
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        pipeline = self.source.assembled(StableDiffusionPipeline, parts)
        kind = self.scheduler.config.prediction_type
        if pipeline.scheduler.config.prediction_type != kind:
            pipeline.scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, prediction_type=kind)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def load_parts(
    name: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    cache_dir: str | None = None,
    model_config: str | None = None,
    tokenizer_name: str | None = None,
) -> Parts:
    """Loads a pipeline folder, a Hub name or a single-file checkpoint.

    Args:
        prediction_type: `epsilon` or `v_prediction` instead of what the model's scheduler says.
        model_config: a pipeline's folder with the sizes of a single file whose own are unusual.
        tokenizer_name: folder or Hub name of the tokenizer; left out, the model's own, or for a file CLIP's.

    Raises:
        ValueError: the folder, file or name can't be read, is no Stable Diffusion 1.x / 2.x, or its noise schedule
            doesn't fit its prediction type.
    """
    import diffusers
    import transformers

    source = source_of(str(name), revision, variant, prediction_type, cache_dir, model_config, tokenizer_name)
    kind = source.index().get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(
            f"{name} is a {kind}. This script trains Stable Diffusion 1.x and 2.x; "
            "SDXL's U-Net works with reslora_sd.add_reslora in a script of your own."
        )
    named = tokenizer_name if isinstance(source, FolderOrHub) else None
    parts = Parts(
        name=str(name),
        tokenizer=read_tokenizer(named) if named else source.load("tokenizer", transformers.CLIPTokenizer),
        text_encoder=source.load("text_encoder", transformers.CLIPTextModel),
        vae=source.load("vae", diffusers.AutoencoderKL),
        unet=source.load("unet", diffusers.UNet2DConditionModel),
        scheduler=source.load("scheduler", diffusers.DDPMScheduler),
        source=source,
    )
    for model in (parts.text_encoder, parts.vae, parts.unet):
        model.requires_grad_(False).eval().float()
    if prediction_type:
        parts.scheduler = parts.scheduler.from_config(parts.scheduler.config, prediction_type=prediction_type)
    parts.relabelled = parts.scheduler.config.prediction_type != source.sampled_as()
    _check(parts)
    return parts


def load_unet(
    name: str,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | None = None,
    model_config: str | None = None,
) -> UNet2DConditionModel:
    """The U-Net alone, in float32, of any model that `load_parts` takes, and of SDXL.

    Raises:
        ValueError: it can't be read.
    """
    from diffusers import UNet2DConditionModel

    # the prediction type decides nothing about a U-Net's weights
    source = source_of(name, revision, variant, "epsilon", cache_dir, model_config)
    return source.load("unet", UNet2DConditionModel).float().eval()


def _check(parts: Parts) -> None:
    words, rows = len(parts.tokenizer), parts.text_encoder.config.vocab_size
    if words > rows or words < 3:  # transformers makes an empty tokenizer of a folder without one
        raise ValueError(
            f"The tokenizer of {parts.name} has {words} entries and its text encoder {rows}. The folder is broken."
        )
    kind = parts.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type is {kind!r}. It must be epsilon or v_prediction.")
    if kind == "epsilon" and float(parts.scheduler.alphas_cumprod[-1]) < 1e-9:
        raise ValueError(
            f"{parts.name} has a noise schedule with zero terminal SNR and prediction_type epsilon, which no model can "
            "learn at the last step. Use a v_prediction model."
        )
