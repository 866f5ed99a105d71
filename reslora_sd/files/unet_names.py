"""What the modules of a U-Net and its text encoders are called in LoRA files, from diffusers' paths and back.

Three ways to name a module stand in files:
- diffusers and PEFT: the path itself, `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`;
- kohya for SD 1.x and 2.x: `lora_unet_` and the path with underscores;
- kohya for SDXL: `lora_unet_` and the path in Stability AI's own code ("SAI"), which numbers blocks through:
  `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`.

Text encoders are `lora_te_` where there is one, `lora_te1_` and `lora_te2_` where there are two (SDXL).

Rules, read in kohya-ss/sd-scripts `library/sdxl_model_util.py` (block numbers) and `networks/lora.py` (prefixes),
comfyanonymous/ComfyUI `comfy/utils.py` (block numbers for any depth; where an upsampler stands) and
AUTOMATIC1111/stable-diffusion-webui `extensions-builtin/Lora/networks.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .lora_file import TEXT_ENCODER, TEXT_ENCODER_2, UNET

_KOHYA_PREFIXES = {
    "lora_unet_": UNET,
    "lora_te_": TEXT_ENCODER,
    "lora_te1_": TEXT_ENCODER,
    "lora_te2_": TEXT_ENCODER_2,
}


@dataclass(frozen=True)
class Topology:
    """What SAI names depend on."""

    layers: int
    """Residual blocks of one level on the way down (diffusers' `layers_per_block`); on the way up it is one more.

    0 where levels differ, for which SAI's code has no names."""
    up_attention: tuple[bool, ...]
    """Which levels on the way up have attention. An upsampler's number depends on it."""
    sdxl: bool
    """Whether kohya's tools use SAI names and two text encoders."""


SD = Topology(2, (False, True, True, True), sdxl=False)
"""SD 1.x and 2.x."""
SDXL = Topology(2, (True, True, False), sdxl=True)


def topology_of(config: Mapping[str, Any]) -> Topology:
    """From a diffusers U-Net's own config."""
    layers = config["layers_per_block"]
    numbers = {layers} if isinstance(layers, int) else set(layers)
    up = tuple("CrossAttn" in str(kind) for kind in config["up_block_types"])
    return Topology(
        numbers.pop() if len(numbers) == 1 else 0, up, sdxl=config.get("addition_embed_type") == "text_time"
    )


def guess_topology(components: Mapping[str, Iterable[str]]) -> Topology:
    """From nothing but the paths of a LoRA's modules by component: SDXL where they can't be of SD 1.x or 2.x.

    SDXL alone has a second text encoder, several transformer blocks in a row, or attention in `up_blocks.0` with none
    in `down_blocks.0`.
    """
    if components.get(TEXT_ENCODER_2):
        return SDXL
    paths = list(components.get(UNET, ()))
    deep = any(re.search(r"\.transformer_blocks\.[1-9]", path) for path in paths)
    up = any(path.startswith("up_blocks.0.attentions.") for path in paths)
    down = any(path.startswith("down_blocks.0.attentions.") for path in paths)
    return SDXL if deep or (up and not down) else SD


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_TRANSFORMER = (
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
    *(f"attn{number}.{leaf}" for number in (1, 2) for leaf in ("to_q", "to_k", "to_v", "to_out.0")),
)
_ATTENTION = ("norm", "proj_in", "proj_out")
_TEXT_TOP = ("text_projection", "text_model.final_layer_norm", "text_model.embeddings.token_embedding")
_TEXT_LAYER = (
    *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    *(f"self_attn.{leaf}" for leaf in ("q_proj", "k_proj", "v_proj", "out_proj")),
)


def _underscored(path: str) -> str:
    return path.replace(".", "_")


_TOP_BY_NAME = {_underscored(name): path for path, sai in _TOP.items() for name in (path, sai)}
_RESNET_BY_NAME = {_underscored(path): path for path in _RESNET}
_RESNET_BY_SAI = {_underscored(sai): path for path, sai in _RESNET.items()}
_TRANSFORMER_BY_NAME = {_underscored(path): path for path in _TRANSFORMER}
_TEXT_BY_NAME = {_underscored(path): path for path in _TEXT_LAYER}
_TEXT_TOP_BY_NAME = {_underscored(path): path for path in _TEXT_TOP}

_N = "(0|[1-9][0-9]{0,2})"  # a number as Python writes it
_PATH = re.compile(rf"(down|up)_blocks\.{_N}\.(resnets|attentions|downsamplers|upsamplers)\.{_N}\.(.+)")
_MID = re.compile(rf"mid_block\.(resnets|attentions)\.{_N}\.(.+)")
_NAME = re.compile(rf"(down|up)_blocks_{_N}_(resnets|attentions|downsamplers|upsamplers)_{_N}_(\w+)", re.ASCII)
_MID_NAME = re.compile(rf"mid_block_(resnets|attentions)_{_N}_(\w+)", re.ASCII)
_SAI = re.compile(rf"(input|output)_blocks_{_N}_([012])_(\w+)", re.ASCII)
_SAI_MID = re.compile(r"middle_block_([012])_(\w+)", re.ASCII)
_INSIDE = re.compile(rf"transformer_blocks_{_N}_(\w+)", re.ASCII)
_TEXT = re.compile(rf"text_model_encoder_layers_{_N}_(\w+)", re.ASCII)


def kohya_stem(component: str, path: str, topology: Topology, sai: bool | None = None) -> str:
    """The name before `.lora_down.weight` in a kohya file for that kind of model.

    Text encoders' paths are those of transformers 4, which LoRA files keep: they start with `text_model.`.

    Args:
        sai: whether the U-Net's modules have SAI names. Left out: as kohya's tools want it, for SDXL.

    Raises:
        ValueError: the U-Net has no such module in SAI's code.
    """
    if component == UNET:
        original = topology.sdxl if sai is None else sai
        return "lora_unet_" + _underscored(sai_path(path, topology) if original else path)
    if component == TEXT_ENCODER and not topology.sdxl:
        return "lora_te_" + _underscored(path)
    return {TEXT_ENCODER: "lora_te1_", TEXT_ENCODER_2: "lora_te2_"}[component] + _underscored(path)


def module_of(stem: str, layers: int = 2) -> tuple[str, str] | None:
    """The component and the path in diffusers of a name in a kohya file, of either kind; `None` for no such module.

    Args:
        stem: what stands before `.lora_down.weight`.
        layers: of `Topology`, for SAI names.
    """
    for prefix, component in _KOHYA_PREFIXES.items():
        if stem.startswith(prefix):
            name = stem.removeprefix(prefix)
            path = unet_path(name, layers) if component == UNET else text_path(name)
            return (component, path) if path else None
    return None


def sai_path(path: str, topology: Topology = SDXL) -> str:
    """A U-Net's module in SAI's code, with dots.

    Raises:
        ValueError: it is no module of such a U-Net.
    """
    found = _TOP.get(path) or _sai_mid(path) or _sai_block(path, topology)
    if found is None:
        raise ValueError(f"{path} has no name in Stability AI's U-Net. Save this LoRA for diffusers.")
    return found


def _sai_mid(path: str) -> str | None:
    match = _MID.fullmatch(path)
    if match is None:
        return None
    kind, number, inner = match[1], int(match[2]), match[3]
    if kind == "attentions":
        return f"middle_block.1.{inner}" if number == 0 else None
    return f"middle_block.{2 * number}.{_RESNET[inner]}" if number < 2 and inner in _RESNET else None


def _sai_block(path: str, topology: Topology) -> str | None:
    match = _PATH.fullmatch(path)
    if match is None or not topology.layers:
        return None
    way, level, kind, layer, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
    layers = topology.layers
    if (way, kind, layer, inner) == ("down", "downsamplers", 0, "conv"):
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
    if (way, kind, layer, inner) == ("up", "upsamplers", 0, "conv") and level < len(topology.up_attention):
        return f"output_blocks.{level * (layers + 1) + layers}.{1 + topology.up_attention[level]}.conv"
    if kind not in ("resnets", "attentions") or layer >= layers + (way == "up"):
        return None
    number = level * (layers + 1) + layer
    block = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
    if kind == "attentions":
        return f"{block}.1.{inner}"
    return f"{block}.0.{_RESNET[inner]}" if inner in _RESNET else None


def unet_path(name: str, layers: int = 2) -> str | None:
    """The path in diffusers of a U-Net's module under its underscored name, diffusers' or SAI's; `None` for neither."""
    if name in _TOP_BY_NAME:
        return _TOP_BY_NAME[name]
    if match := _NAME.fullmatch(name):
        way, level, kind, layer, inner = match.groups()
        sampler = {"down": "downsamplers", "up": "upsamplers"}[way]
        found = {"conv": "conv"}.get(inner) if kind == sampler else _inner(kind, inner, _RESNET_BY_NAME)
        return f"{way}_blocks.{level}.{kind}.{layer}.{found}" if found else None
    if match := _MID_NAME.fullmatch(name):
        found = _inner(match[1], match[3], _RESNET_BY_NAME)
        return f"mid_block.{match[1]}.{match[2]}.{found}" if found else None
    if match := _SAI_MID.fullmatch(name):
        kind, number = ("attentions", 0) if match[1] == "1" else ("resnets", int(match[1]) // 2)
        found = _inner(kind, match[2], _RESNET_BY_SAI)
        return f"mid_block.{kind}.{number}.{found}" if found else None
    match = _SAI.fullmatch(name)
    return _from_sai_block(match[1], int(match[2]), int(match[3]), match[4], layers) if match else None


def _from_sai_block(way: str, number: int, slot: int, inner: str, layers: int) -> str | None:
    level, layer = divmod(number - (way == "input"), layers + 1)
    block = f"{'down' if way == 'input' else 'up'}_blocks.{level}"
    if level < 0:
        return None
    if way == "input" and layer == layers:
        return f"{block}.downsamplers.0.conv" if (slot, inner) == (0, "op") else None
    if way == "output" and layer == layers and slot > 0 and inner == "conv":
        return f"{block}.upsamplers.0.conv"
    if slot > 1:
        return None
    kind = ("resnets", "attentions")[slot]
    found = _inner(kind, inner, _RESNET_BY_SAI)
    return f"{block}.{kind}.{layer}.{found}" if found else None


def _inner(kind: str, name: str, resnet: Mapping[str, str]) -> str | None:
    """What stands inside a residual block or a transformer, with its dots."""
    if kind == "resnets":
        return resnet.get(name)
    if kind != "attentions":
        return None
    match = _INSIDE.fullmatch(name)
    if match is None:
        return name if name in _ATTENTION else None
    leaf = _TRANSFORMER_BY_NAME.get(match[2])
    return f"transformer_blocks.{match[1]}.{leaf}" if leaf else None


def text_path(name: str) -> str | None:
    """The path of a CLIP text encoder's module under its underscored name; `None` for no such module."""
    match = _TEXT.fullmatch(name)
    if match is None:
        return _TEXT_TOP_BY_NAME.get(name)
    leaf = _TEXT_BY_NAME.get(match[2])
    return f"text_model.encoder.layers.{match[1]}.{leaf}" if leaf else None
