"""LoRA files as other tools write them: real names, tiny widths, random values."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from reslora_sd.files.unet_names import SD, SDXL, Topology, kohya_stem
from tests.unets import SMALL_SD1, SMALL_SDXL, weightless

CLIP: dict[str, Any] = {"vocab_size": 40, "hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 2}
_TEXT = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SD1_ENCODERS = {"text_encoder": 12}
SDXL_ENCODERS = {"text_encoder": 12, "text_encoder_2": 32}
"""How many layers they have."""


@functools.cache
def text_encoder(layers: int) -> nn.Module:
    """A CLIP text encoder without weights."""
    with torch.device("meta"):
        model: nn.Module = CLIPTextModel(CLIPTextConfig(**CLIP, **_TEXT, num_hidden_layers=layers))
    return model


def layers_of(config: dict[str, Any], encoders: Mapping[str, int], convolutions: bool = False) -> Iterator[Any]:
    """Component, path and weight's shape of what sd-scripts gives a LoRA by default, or with `conv_dim` too.

    By default: linears and 1 x 1 convolutions in the U-Net's transformers, and linears of the text encoders' layers.
    """
    for name, module in weightless(config).named_modules():
        inside = ".attentions." in name or (convolutions and (".resnets." in name or "samplers." in name))
        if inside and isinstance(module, nn.Linear | nn.Conv2d):
            yield "unet", name, tuple(module.weight.shape)
    for component, layers in encoders.items():
        for name, module in text_encoder(layers).named_modules():
            if isinstance(module, nn.Linear):
                yield component, f"text_model.{name.removeprefix('text_model.')}", tuple(module.weight.shape)


def kohya_file(
    family: str, rank: int = 4, alpha: float = 1.0, convolutions: bool = False, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """What sd-scripts' `networks.lora` saves for SD 1.5 ("sd1") or SDXL ("sdxl")."""
    topology: Topology = {"sd1": SD, "sdxl": SDXL}[family]
    generator, tensors = torch.Generator().manual_seed(0), {}
    for component, path, (out, *size) in _layers(family, convolutions):
        stem = kohya_stem(component, path, topology)
        kernel = (1, 1) if len(size) == 3 else ()
        tensors[f"{stem}.lora_down.weight"] = torch.randn(rank, *size, generator=generator).to(dtype)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(out, rank, *kernel, generator=generator).to(dtype)
        tensors[f"{stem}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors


@functools.cache
def _layers(family: str, convolutions: bool) -> tuple[Any, ...]:
    config, encoders = {"sd1": (SMALL_SD1, SD1_ENCODERS), "sdxl": (SMALL_SDXL, SDXL_ENCODERS)}[family]
    return tuple(layers_of(config, encoders, convolutions))


def kohya_deltas(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """delta W by the name before the first dot, as sd-scripts computes it, in float64."""
    deltas = {}
    for stem in {key.split(".")[0] for key in tensors}:
        down, up = (tensors[f"{stem}.lora_{way}.weight"].double() for way in ("down", "up"))
        scale = float(tensors[f"{stem}.alpha"]) / down.shape[0] if f"{stem}.alpha" in tensors else 1.0
        deltas[stem] = scale * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(
            up.shape[0], *down.shape[1:]
        )
    return deltas
