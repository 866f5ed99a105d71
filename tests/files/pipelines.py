"""diffusers' pipelines of the three families, tiny and made from configs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import CLIPTokenizer

from reslora_sd.diffusion.models import DEFAULT_MODEL
from tests.files.topologies import TEXT_ENCODERS, tiny_text_encoders, tiny_unet


@functools.cache
def pipeline(family: str) -> Any:
    """The same one for all tests: they leave it as they found it."""
    tokenizer = CLIPTokenizer.from_pretrained(DEFAULT_MODEL, subfolder="tokenizer")
    encoders = tiny_text_encoders(
        family,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if family == "sd2" else "epsilon",
        clip_sample=False,
        steps_offset=1,
    )
    parts = {"vae": _vae(), "unet": tiny_unet(family), "tokenizer": tokenizer, "scheduler": scheduler, **encoders}
    if family == "sdxl":
        found = StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer)
    else:
        found = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    found.set_progress_bar_config(disable=True)
    return found


def _vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
    ).eval()


def parts_of(pipe: Any) -> dict[str, nn.Module]:
    """Its U-Net and text encoders."""
    return {name: part for name in ("unet", *TEXT_ENCODERS) if (part := getattr(pipe, name, None)) is not None}


def tuned(model: nn.Module, name: str = "default_0") -> dict[str, Tensor]:
    """delta W of every layer that PEFT has put an adapter of that name into, by its path."""
    layers = {path: part for path, part in model.named_modules() if isinstance(part, BaseTunerLayer)}
    return {path: part.get_delta_weight(name).detach() for path, part in layers.items() if name in part.active_adapters}


def canonical(component: str, path: str) -> str:
    """Text encoders' paths start with `text_model.` in LoRA files, and no longer in every model of transformers 5."""
    return f"unet.{path}" if component == "unet" else f"{component}.text_model.{path.removeprefix('text_model.')}"


def deltas_in(pipe: Any, name: str = "default_0") -> dict[str, Tensor]:
    """As `tuned`, of the whole pipeline, by component and path."""
    parts = parts_of(pipe).items()
    return {canonical(part, path): delta for part, model in parts for path, delta in tuned(model, name).items()}


def layers_of(pipe: Any) -> dict[str, Any]:
    """Linears and convolutions of the pipeline's own, whether PEFT stands around them or not, by component and path."""
    return {
        canonical(part, path.replace(".base_layer", "")): layer
        for part, model in parts_of(pipe).items()
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in path
    }


@contextlib.contextmanager
def added(pipe: Any, deltas: Iterable[tuple[Mapping[str, Tensor], float]]) -> Iterator[None]:
    """Within it, the deltas are in the pipeline's own weights, at those strengths."""
    layers = layers_of(pipe)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    try:
        with torch.no_grad():
            for given, strength in deltas:
                for name, delta in given.items():
                    layers[name].weight.add_(strength * delta)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                layers[name].weight.copy_(weight)


def drawing(pipe: Any, **arguments: Any) -> Tensor:
    """The latents of two steps, from noise that is always the same."""
    settings = {"prompt": "a red fish", "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    found: Tensor = pipe(**{**settings, **arguments}, generator=generator).images.float()
    return found
