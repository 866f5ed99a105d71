"""SD 1.5, SD 2.1 and SDXL with their real modules at tiny widths, and what other tools call those modules.

Every block, layer and transformer is there, and the width of the text, by which InvokeAI knows a LoRA's family. Text
encoders have one layer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.unets import SD1, SD2, SDXL

FAMILIES = ("sd1", "sd2", "sdxl")
_WIDTHS = {"block_out_channels": (8, 16, 24, 24), "norm_num_groups": 4, "sample_size": 16}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**SD1, **_WIDTHS, "attention_head_dim": 2},
    "sd2": {**SD2, **_WIDTHS, "attention_head_dim": (1, 2, 2, 2)},
    "sdxl": {
        **SDXL,
        **_WIDTHS,
        "block_out_channels": (8, 16, 24),
        "attention_head_dim": (1, 2, 2),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 1280 + 6 * 8,
    },
}
_TEXT_WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TEXT_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def tiny_unet(family: str, seed: int = 0) -> UNet2DConditionModel:
    """Random weights."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(**UNETS[family]).eval()


def text_config(family: str, number: int = 0, **settings: Any) -> CLIPTextConfig:
    """Of the family's first or second text encoder: its real width, little else."""
    width = _TEXT_WIDTHS[family][number]
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        projection_dim=width,
        **{"vocab_size": 99, **settings},
    )


def tiny_text_encoders(family: str, seed: int = 0, **settings: Any) -> dict[str, nn.Module]:
    """By diffusers' names of them."""
    torch.manual_seed(seed)
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    found = zip(TEXT_ENCODERS, kinds, range(len(_TEXT_WIDTHS[family])), strict=False)
    return {name: kind(text_config(family, number, **settings)).eval() for name, kind, number in found}


@dataclass(frozen=True)
class Topology:
    """What a reader knows of the model that a LoRA is for."""

    family: str
    """One of `FAMILIES`."""
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Of the weights, by component, then by the path of the module in diffusers. Text encoders' paths are those of
    transformers 4, which LoRA files keep: they start with `text_model.`."""
    original: Mapping[str, str]
    """The path of a U-Net's module in diffusers, and its path in the code of Stability AI and CompVis."""
    config: Mapping[str, Any]
    """The U-Net's published one, of its real widths."""


@functools.cache
def topology(family: str) -> Topology:
    """From models without weights."""
    with torch.device("meta"):
        unet, text = UNet2DConditionModel(**UNETS[family]), tiny_text_encoders(family)
    shapes = {"unet": _shapes(unet)}
    for name, model in text.items():
        shapes[name] = {f"text_model.{path.removeprefix('text_model.')}": size for path, size in _shapes(model).items()}
    attention = tuple("CrossAttn" in kind for kind in unet.config.up_block_types)
    original = {path: original_path(path, attention) for path in shapes["unet"]}
    return Topology(family, shapes, original, {**unet.config, **{"sd1": SD1, "sd2": SD2, "sdxl": SDXL}[family]})


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    layers = (nn.Linear, nn.Conv2d)
    return {name: tuple(part.weight.shape) for name, part in model.named_modules() if isinstance(part, layers)}


_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3"}
_RESNET["conv_shortcut"] = "skip_connection"


def original_path(path: str, attention: tuple[bool, ...]) -> str:
    """A U-Net's layer in the original code, which numbers all blocks through: three on a level, both ways.

    Source: Stability-AI/generative-models `sgm/modules/diffusionmodules/openaimodel.py`, as
    comfyanonymous/ComfyUI `comfy/utils.py` counts it.

    Args:
        path: in diffusers.
        attention: of every level on the way up. An upsampler stands behind it.
    """
    if path in _TOP:
        return _TOP[path]
    parts = path.split(".")
    if parts[0] == "mid_block":
        kind, number, inner = parts[1], int(parts[2]), ".".join(parts[3:])
        return f"middle_block.1.{inner}" if kind == "attentions" else f"middle_block.{2 * number}.{_RESNET[inner]}"
    way, level, kind, number, inner = parts[0], int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
    if kind == "downsamplers":
        return f"input_blocks.{3 * level + 3}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{3 * level + 2}.{2 if attention[level] else 1}.conv"
    block = f"input_blocks.{3 * level + number + 1}" if way == "down_blocks" else f"output_blocks.{3 * level + number}"
    return f"{block}.1.{inner}" if kind == "attentions" else f"{block}.0.{_RESNET[inner]}"
