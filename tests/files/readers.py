"""How tools that can't be installed here read a LoRA file: which names they take, and at which strength.

Their rules in our own words, from the files that each function names, as of 2025 and 2026. All of them take the
strength from `.alpha` beside the pair, alpha / rank, or 1 without one; none looks into the metadata for it.

Compared once with the fetched programs, on files with every module of the three families: the same modules, the same
keys left, and deltas equal to 5e-8.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.files.topologies import TEXT_ENCODERS, TEXT_LAYERS, Topology

_KOHYA = (".lora_down.weight", ".lora_up.weight")


@dataclass(frozen=True)
class Taken:
    """What a tool made of a file."""

    deltas: Mapping[str, Tensor]
    """What is added to each weight, by component and path: `unet.conv_in`."""
    left: frozenset[str]
    """Keys of the file that it didn't use."""


Reader = Callable[[Path, Topology], Taken]


@functools.lru_cache(16)
def _tensors(path: Path) -> Mapping[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def metadata_of(path: Path) -> dict[str, str]:
    """The file's own."""
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return metadata


def a1111(path: Path, topology: Topology) -> Taken:
    """A1111: every name is turned into one of the original code's, whose modules it knows; others are skipped.

    It counts three layers on a level and expects SD 1's upsamplers, so under diffusers' names SDXL's first upsampler
    gets lost, and so does the embedding of sizes. OpenCLIP's attention (SD 2.x, SDXL's second encoder) is one fused
    layer, changed only where q, k, v and out are all there.

    Source: AUTOMATIC1111/stable-diffusion-webui `extensions-builtin/Lora/networks.py` and `network_lora.py` (1.10).
    """
    sdxl = topology.family == "sdxl"
    names = {f"lora_unet_{_flat(original)}": f"unet.{path_}" for path_, original in topology.original.items()}
    for path_ in topology.original:
        if not path_.startswith("add_embedding") and not (sdxl and path_.startswith("up_blocks.0.upsamplers")):
            names[f"lora_unet_{_flat(path_)}"] = f"unet.{path_}"
    prefixes = {"sd1": ("lora_te_", "lora_te1_"), "sd2": ("lora_te_",), "sdxl": ("lora_te1_",)}
    for prefix in prefixes[topology.family]:
        names |= _text_names(topology, {"text_encoder": prefix})
    if sdxl:
        names |= _text_names(topology, {"text_encoder_2": "lora_te2_"})
    tensors = _tensors(path)
    return _take(tensors, _without_parts_of_fused(names, tensors, topology), topology, [_KOHYA])


def _without_parts_of_fused(names: Mapping[str, str], keys: Iterable[str], topology: Topology) -> dict[str, str]:
    """OpenCLIP's attention whole or not at all."""
    fused = {"sd1": "none", "sd2": "text_encoder.", "sdxl": "text_encoder_2."}[topology.family]
    stems = set(_stems(keys))

    def whole(stem: str) -> bool:
        layer = re.sub("_(q|k|v|out)_proj$", "", stem)
        return all(f"{layer}_{part}_proj" in stems for part in ("q", "k", "v", "out"))

    return {
        stem: module
        for stem, module in names.items()
        if not (module.startswith(fused) and ".self_attn." in module) or whole(stem)
    }


def a1111_family(metadata: Mapping[str, str]) -> str | None:
    """For which models A1111 lists a file; `None` for all. Any metadata without a mark mean SD 1.

    Source: AUTOMATIC1111/stable-diffusion-webui `extensions-builtin/Lora/network.py`, `ui_extra_networks_lora.py`.
    """
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "sdxl"
    if metadata.get("ss_v2") == "True":
        return "sd2"
    return "sd1" if metadata else None


def comfyui(path: Path, topology: Topology) -> Taken:
    """ComfyUI: it lists all names of all its modules, and looks for each of them in the file.

    In the form of diffusers these are the names of 2023, `attn1.processor.to_q`; today's `attn1.to_q` isn't one. Text
    encoders have no such difference.

    Source: comfyanonymous/ComfyUI `comfy/lora.py`, `comfy/weight_adapter/lora.py`, `comfy/utils.py`.
    """
    names: dict[str, str] = {}
    for path_, original in topology.original.items():
        old = path_.replace(".to_", ".processor.to_").removesuffix(".0" if path_.endswith(".to_out.0") else "")
        for name in (
            f"lora_unet_{_flat(original)}",
            f"lora_unet_{_flat(path_)}",
            f"lycoris_{_flat(path_)}",
            f"diffusion_model.{original}",
            old,
            f"unet.{old}",
        ):
            names[name] = f"unet.{path_}"
    return _take(_tensors(path), names | _comfy_text_encoders(topology), topology, _COMFY_ENDS)


_COMFY_ENDS = (
    _KOHYA,
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)


def _comfy_text_encoders(topology: Topology) -> dict[str, str]:
    names: dict[str, str] = {}
    for component in topology.shapes.keys() & set(TEXT_ENCODERS):
        prefixes = ("lora_te2_",) if component == "text_encoder_2" else ("lora_te_", "lora_te1_")
        for leaf in TEXT_LAYERS:
            path = f"text_model.encoder.layers.0.{leaf}"
            names |= {prefix + _flat(path): f"{component}.{path}" for prefix in prefixes}
            names[f"{component}.{path}"] = f"{component}.{path}"
    return names


def forge(path: Path, topology: Topology) -> Taken:
    """Forge: names as ComfyUI's, but a file with more than twelve unknown keys is refused whole.

    Source: lllyasviel/stable-diffusion-webui-forge `extensions-builtin/sd_forge_lora/networks.py`,
    `packages_3rdparty/comfyui_lora_collection/lora.py`.
    """
    taken = comfyui(path, topology)
    return Taken({}, frozenset(_tensors(path))) if len(taken.left) > 12 else taken


def forge_family(metadata: Mapping[str, str]) -> str | None:
    """For which models Forge lists a file; `None` where it doesn't know.

    Source: lllyasviel/stable-diffusion-webui-forge `extensions-builtin/sd_forge_lora/network.py`.
    """
    architecture = metadata.get("modelspec.architecture")
    if architecture == "stable-diffusion-xl-v1-base/lora" or a1111_family(metadata) == "sdxl":
        return "sdxl"
    if metadata.get("ss_v2") == "True":
        return "sd2"
    return "sd1" if architecture == "stable-diffusion-v1/lora" else None


def invokeai(path: Path, topology: Topology) -> Taken:
    """InvokeAI: kohya's names, taken apart at their underscores along the modules of diffusers and transformers.

    SDXL's names may be the original's, all or none; others' may not. What can't be a file of the model is refused.

    Source: invoke-ai/InvokeAI `invokeai/backend/model_manager/configs/lora.py`, `patches/layer_patcher.py`,
    `patches/lora_conversions/` (`sd_lora_conversion_utils.py`, `sdxl_lora_conversion_utils.py`).
    """
    tensors = _tensors(path)
    if invokeai_family(tensors) != topology.family:
        return Taken({}, frozenset(tensors))
    names = {f"lora_unet_{_flat(path)}": f"unet.{path}" for path in topology.shapes["unet"]}
    if topology.family == "sdxl":
        originals = {f"lora_unet_{_flat(name)}": f"unet.{path}" for path, name in topology.original.items()}
        names = originals if any(stem in originals for stem in _stems(tensors)) else names
    names |= _text_names(topology, _kohya_prefixes(topology))
    return _take(tensors, names, topology, [_KOHYA])


def invokeai_family(tensors: Mapping[str, Tensor]) -> str | None:
    """By the width of the text that a pair reads, or by SDXL's deep transformers. Metadata don't count.

    Source: invoke-ai/InvokeAI `invokeai/backend/model_manager/util/model_util.py`, `configs/lora.py`.
    """
    widths = {768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: "sdxl"}
    encoders: dict[str, int] = {}
    for key, value in tensors.items():
        if not key.endswith(".lora_down.weight"):
            continue
        if key.startswith("lora_unet_") and re.search("_attn2_to_[kv][.]|time_emb_proj[.]", key):
            return widths.get(value.shape[1])
        if key.startswith("lora_te_") and "_self_attn_" in key:
            return widths.get(value.shape[1])
        if key.startswith(("lora_te1_", "lora_te2_")) and "_self_attn_" in key:
            encoders[key[:8]] = value.shape[1]
        if len(encoders) == 2:
            return widths.get(sum(encoders.values()))
    deep = any(re.match(r"lora_unet_.+_transformer_blocks_([2-9]|\d\d)_", key) for key in tensors)
    return "sdxl" if deep else None


def sd_scripts(path: Path, topology: Topology) -> Taken:
    """sd-scripts' `--network_weights` with `--dim_from_weights`, and its merge_lora and sdxl_merge_lora.

    The layers of its own U-Net's transformers, residual blocks and samplers, and of CLIP's attention and MLP. The U-Net
    has diffusers' names for SD 1.x and 2.x and the original's for SDXL, and no others.

    Source: kohya-ss/sd-scripts `networks/lora.py`, `networks/merge_lora.py`, `networks/sdxl_merge_lora.py`.
    """
    parts = (".attentions.", ".resnets.", ".downsamplers.", ".upsamplers.")
    paths = [path for path in topology.shapes["unet"] if any(part in path for part in parts)]
    sdxl = topology.family == "sdxl"
    names = {f"lora_unet_{_flat(topology.original[path] if sdxl else path)}": f"unet.{path}" for path in paths}
    names |= _text_names(topology, _kohya_prefixes(topology))
    return _take(_tensors(path), names, topology, [_KOHYA])


def _kohya_prefixes(topology: Topology) -> dict[str, str]:
    two = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    return two if topology.family == "sdxl" else {"text_encoder": "lora_te_"}


def _text_names(topology: Topology, prefixes: Mapping[str, str]) -> dict[str, str]:
    return {
        prefix + _flat(path): f"{component}.{path}"
        for component, prefix in prefixes.items()
        for path in topology.shapes[component]
        if ".encoder." in path
    }


def _flat(path: str) -> str:
    return path.replace(".", "_")


def _stems(tensors: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in tensors))


def _take(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    topology: Topology,
    endings: Iterable[tuple[str, str]],
) -> Taken:
    """Pairs under the names that a tool knows: alpha / rank times their product, in the weight's own shape."""
    deltas: dict[str, Tensor] = {}
    used: set[str] = set()
    for stem, module in names.items():
        ends = next((ends for ends in endings if stem + ends[1] in tensors), None)
        if ends is None:
            continue
        down, up = (tensors[stem + end].float().flatten(1) for end in ends)
        alpha = tensors.get(f"{stem}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        component, _, path = module.partition(".")
        deltas[module] = (scale * (up @ down)).reshape(topology.shapes[component][path])
        used |= {stem + ends[0], stem + ends[1], f"{stem}.alpha"}
    return Taken(deltas, frozenset(tensors) - used)


READERS: dict[str, Reader] = {
    "A1111": a1111,
    "Forge": forge,
    "ComfyUI": comfyui,
    "InvokeAI": invokeai,
    "sd-scripts": sd_scripts,
}
"""By name."""
