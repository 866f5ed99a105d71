"""Loads the parts of a Stable Diffusion pipeline, with errors that name the part."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..assets import DEFAULT_MODEL as DEFAULT_MODEL
from ..training.command import first_words
from .model_sources import FolderOrHub, Source, source_of
from .tokenizers import read_tokenizer

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


logger = logging.getLogger("reslora_sd")


@dataclass
class Parts:
    """A Stable Diffusion 1.x, 2.x or SDXL model, frozen, in float32 on the CPU."""

    name: str
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    """The model's own noise schedule, as DDPM training uses it."""
    source: Source
    text_encoder_2: CLIPTextModelWithProjection | None = None
    """SDXL's second."""
    tokenizer_2: CLIPTokenizer | None = None
    relabelled: bool = False
    """Whether `scheduler` has another prediction type than diffusers alone samples the model with."""
    chunks: int = 1
    """How many times the tokenizer's length of a caption is read (`chunks_of`)."""
    encodings: Any = None
    """The `Encodings` of pictures and captions on disk, or `None`; set once the models are where they run."""
    adapted_text: bool = False
    """Whether the text encoders change, so that captions are encoded when they are used (`LateConditioning`)."""

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
        dtype: torch.dtype = self.text_encoder.dtype
        return dtype

    @property
    def text_encoders(self) -> dict[str, Any]:
        """By their names in a pipeline."""
        found = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    @property
    def models(self) -> list[Any]:
        """Those with weights."""
        return [*self.text_encoders.values(), self.vae, self.unet]

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
        """Moves and casts the models. SDXL's own VAE stays in float32, as its numbers overflow in half precision."""
        for model in self.models:
            model.to(device)
            whole = model is self.vae and self.text_encoder_2 is not None and model.config.force_upcast
            if not whole and dtype != model.dtype:
                model.to(dtype)

    def pipeline(self, fresh_unet: bool = False) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
        """A pipeline of these very modules, with the model's own sampler and without a second copy of anything.

        The sampler has the prediction type of `scheduler`.

        Args:
            fresh_unet: read the U-Net anew from the model's files, in the precision of this one.
        """
        import diffusers

        kind = diffusers.UNet2DConditionModel
        parts: dict[str, Any] = {
            "tokenizer": self.tokenizer,
            "text_encoder": self.text_encoder,
            "vae": self.vae,
            "unet": self.source.load("unet", kind, self.dtype) if fresh_unet else self.unet,
            "feature_extractor": None,
        }
        if self.text_encoder_2 is None:
            parts |= {"safety_checker": None, "requires_safety_checker": False}
            pipeline = self.source.assembled(diffusers.StableDiffusionPipeline, parts)
        else:
            parts |= {"tokenizer_2": self.tokenizer_2, "text_encoder_2": self.text_encoder_2, "add_watermarker": False}
            pipeline = self.source.assembled(diffusers.StableDiffusionXLPipeline, parts)
        wanted = self.scheduler.config.prediction_type
        if pipeline.scheduler.config.prediction_type != wanted:
            pipeline.scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, prediction_type=wanted)
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
    pretrained_vae_model_name_or_path: str | None = None,
) -> Parts:
    """Loads a pipeline folder, a Hub name or a single-file checkpoint.

    Args:
        prediction_type: `epsilon` or `v_prediction` instead of what the model's scheduler says.
        model_config: a pipeline's folder with the sizes of a single file whose own are unusual.
        tokenizer_name: folder or Hub name of the tokenizer; left out, the model's own, or for a file CLIP's.
        pretrained_vae_model_name_or_path: folder or Hub name of another VAE.

    Raises:
        ValueError: the folder, file or name can't be read, is no Stable Diffusion 1.x, 2.x or SDXL, or its noise
            schedule doesn't fit its prediction type.
    """
    import diffusers
    import transformers

    source = source_of(str(name), revision, variant, prediction_type, cache_dir, model_config, tokenizer_name)
    kind = _pipeline_of(source, name)
    named, vae = (tokenizer_name if isinstance(source, FolderOrHub) else None), pretrained_vae_model_name_or_path
    words = read_tokenizer(named, cache_dir=cache_dir) if named else None
    parts = Parts(
        name=str(name),
        tokenizer=words or source.load("tokenizer", transformers.CLIPTokenizer),
        text_encoder=source.load("text_encoder", transformers.CLIPTextModel),
        vae=_other_vae(vae, cache_dir) if vae else source.load("vae", diffusers.AutoencoderKL),
        unet=source.load("unet", diffusers.UNet2DConditionModel),
        scheduler=source.load("scheduler", diffusers.DDPMScheduler),
        source=source,
    )
    if kind == "StableDiffusionXLPipeline":
        parts.tokenizer_2 = source.load("tokenizer_2", transformers.CLIPTokenizer)
        parts.text_encoder_2 = source.load("text_encoder_2", transformers.CLIPTextModelWithProjection)
    for model in parts.models:
        model.requires_grad_(False).eval().float()
    if prediction_type:
        parts.scheduler = parts.scheduler.from_config(parts.scheduler.config, prediction_type=prediction_type)
    parts.relabelled = parts.scheduler.config.prediction_type != source.sampled_as()
    _check(parts)
    return parts


def _pipeline_of(source: Source, name: str | Path) -> str:
    kind = str(source.index().get("_class_name"))
    if kind not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise ValueError(
            f"{name} is a {kind}. This script trains models whose pipeline is StableDiffusionPipeline (SD 1.x and 2.x) "
            "or StableDiffusionXLPipeline: give one of those."
        )
    return kind


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


def _other_vae(name: str, cache_dir: str | None) -> AutoencoderKL:
    """A VAE of its own, or that of a pipeline's folder."""
    import diffusers

    below = {"subfolder": "vae"} if Path(name, "vae").is_dir() else {}
    try:
        return diffusers.AutoencoderKL.from_pretrained(name, cache_dir=cache_dir, **below)
    except (OSError, ValueError, KeyError) as error:
        first = first_words(error)
        raise ValueError(
            f"--pretrained_vae_model_name_or_path {name}: no VAE can be read ({first}). Give a folder that "
            "AutoencoderKL.save_pretrained wrote, a pipeline's folder, or a name on the Hub."
        ) from error


def _check(parts: Parts) -> None:
    for tokenizer, encoder in ((parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)):
        if tokenizer is None or encoder is None:
            continue
        words, rows = len(tokenizer), encoder.config.vocab_size
        if words > rows or words < 4:  # transformers makes an empty tokenizer of a folder without one
            raise ValueError(
                f"The tokenizer of {parts.name} has {words} entries and its text encoder {rows}. The folder is broken."
            )
        longest = int(encoder.config.max_position_embeddings)  # a tokenizer's folder needn't say its own
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    channels = parts.vae.config.latent_channels, parts.unet.config.in_channels
    if channels[0] != channels[1]:
        raise ValueError(
            f"The VAE makes latents of {channels[0]} channels, and the U-Net of {parts.name} reads {channels[1]}."
        )
    if parts.vae.config.latents_mean is not None:
        raise ValueError(f"The VAE of {parts.name} has latents_mean, which this version can't train with.")
    kind = parts.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type is {kind!r}. It must be epsilon or v_prediction.")
    if kind == "epsilon" and float(parts.scheduler.alphas_cumprod[-1]) < 1e-9:
        raise ValueError(
            f"{parts.name} has a noise schedule with zero terminal SNR and prediction_type epsilon, which no model can "
            "learn at the last step. Use a v_prediction model."
        )
