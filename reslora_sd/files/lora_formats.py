"""Plain LoRA to and from the files of diffusers, PEFT and kohya's sd-scripts (ComfyUI, A1111).

Facts of the forms, read in huggingface/diffusers `loaders/peft.py` and `utils/peft_utils.py`: keys need the prefix
`unet.`; the scale is `lora_alpha / r` of the metadata entry `lora_adapter_metadata` (fields of PEFT's LoraConfig,
prefixed too); without it kohya's `.alpha`, and without that the rank; both together raise.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..runs.names import DIFFUSERS_FILE
from .storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from ..merging.plain_lora import PlainLoRA

PEFT_FILE = "adapter_model.safetensors"
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_PEFT_PREFIX = "base_model.model."
_KOHYA_PREFIX = "lora_unet_"
_KOHYA_NAME = re.compile(
    r"(?:(down|up)_blocks_(\d+)|(mid)_block)_attentions_(\d+)_transformer_blocks_(\d+)_(attn\d)_(to_q|to_k|to_v|to_out_0)"
)


def save_diffusers(lora: PlainLoRA, path: str | os.PathLike[str], details: Mapping[str, str]) -> str:
    """Keys `unet.<path>.lora_A.weight`; scale, ranks and ResLoRA's settings in the metadata."""
    target = Path(path)
    target = target if target.suffix == ".safetensors" else target / DIFFUSERS_FILE
    tensors = {}
    for name, block in lora.blocks.items():
        tensors[f"unet.{name}.lora_A.weight"] = block.lora_A
        tensors[f"unet.{name}.lora_B.weight"] = block.lora_B
    settings = {f"unet.{key}": value for key, value in _peft_settings(lora).items()}
    metadata = {**_metadata(lora, details), _DIFFUSERS_METADATA: json.dumps(settings, sort_keys=True)}
    save_tensors(target, tensors, metadata)
    return str(target)


def save_kohya(lora: PlainLoRA, path: str | os.PathLike[str], details: Mapping[str, str]) -> str:
    """Keys `lora_unet_<path with underscores>.lora_down.weight`, and one `.alpha` for all.

    diffusers' reader loses alphas that differ (its pattern keys match no module), so that what a block's scale has
    beyond the common alpha is folded into `lora_up`.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"{path} is no file name for a kohya LoRA. It must end in .safetensors.")
    tensors: dict[str, Tensor] = {}
    alpha = _peft_settings(lora)["lora_alpha"]
    for name, block in lora.blocks.items():
        key = _KOHYA_PREFIX + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = block.lora_A
        tensors[f"{key}.lora_up.weight"] = block.lora_B * (block.scaling * block.r / alpha)
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
    save_tensors(target, tensors, _metadata(lora, details))
    return str(target)


def save_peft(
    lora: PlainLoRA,
    folder: str | os.PathLike[str],
    base_model: str,
    task_type: str | None,
    trained_modules: Mapping[str, Tensor],
) -> str:
    """`adapter_config.json` (PEFT's own LoraConfig writes it) and `adapter_model.safetensors`."""
    from peft import LoraConfig

    target = Path(folder)
    tensors = {f"{_PEFT_PREFIX}{name}": value for name, value in trained_modules.items()}
    for name, block in lora.blocks.items():
        tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = block.lora_A
        tensors[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = block.lora_B
    save_tensors(target / PEFT_FILE, tensors, _origin(lora))
    settings = LoraConfig(
        **_peft_settings(lora),
        base_model_name_or_path=base_model,
        inference_mode=True,
        task_type=task_type,
        modules_to_save=sorted({name.split(".", 1)[0] for name in trained_modules}) or None,
    )
    settings.save_pretrained(str(target))
    return str(target)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, tuple[Tensor, Tensor, float]], dict[str, str]]:
    """{path of the linear: (lora_A, lora_B, scaling)} and the file's metadata, from any of the three forms."""
    source = Path(path)
    if source.is_dir():
        names = [name for name in (DIFFUSERS_FILE, PEFT_FILE) if (source / name).is_file()]
        if len(names) != 1:
            raise FileNotFoundError(f"{path} holds no {DIFFUSERS_FILE} and no {PEFT_FILE}. Name the file itself.")
        source = source / names[0]
    tensors, metadata = load_tensors(source)
    readers = {"unet.": _read_diffusers, _PEFT_PREFIX: _read_peft, _KOHYA_PREFIX: _read_kohya}
    found = [prefix for prefix in readers if any(key.startswith(prefix) for key in tensors)]
    if len(found) != 1 or not all(key.startswith(found[0]) for key in tensors):
        stray = next((key for key in tensors if not found or not key.startswith(found[0])), "nothing")
        raise ValueError(
            f"{source} is no LoRA of a U-Net alone: it has {stray!r} beside keys that start with {found or 'no'} known "
            f"prefix. Keys must all start with one of {', '.join(readers)}."
        )
    return readers[found[0]](tensors, metadata, source), metadata


def _peft_settings(lora: PlainLoRA) -> dict[str, Any]:
    """Fields of PEFT's LoraConfig. Only old ones: an unknown field makes an older PEFT refuse the file."""
    sizes = {name: (block.r, block.scaling * block.r) for name, block in lora.blocks.items()}
    (r, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": size[0] for name, size in sizes.items() if size[0] != r},
        "alpha_pattern": {f"^{name}": size[1] for name, size in sizes.items() if size[1] != alpha},
        "target_modules": sorted(sizes),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _metadata(lora: PlainLoRA, details: Mapping[str, str]) -> dict[str, str]:
    """What users' tools like to see (kohya's `ss_` names and modelspec), and how the LoRA came about."""
    ranks = {block.r for block in lora.blocks.values()}
    alphas = {block.scaling * block.r for block in lora.blocks.values()}
    method = lora.config.method if lora.config else "lora"
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
        "ss_base_model_version": "sd",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion/lora",
        "modelspec.title": f"LoRA ({method})",
        "modelspec.date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return {**metadata, **_origin(lora), **details}


def _origin(lora: PlainLoRA) -> dict[str, str]:
    settings = {"reslora_config": lora.config.to_json()} if lora.config else {}
    return {"format": "pt", "reslora_merge_approach": lora.approach, **settings}


def _read_diffusers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> dict[str, Any]:
    settings = json.loads(metadata.get(_DIFFUSERS_METADATA, "{}"))
    settings = {key.removeprefix("unet."): value for key, value in settings.items()}
    return _read_pairs(tensors, "unet.", settings, source)


def _read_peft(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> dict[str, Any]:
    config = source.parent / "adapter_config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{source} has no adapter_config.json beside it, so its scale is unknown.")
    return _read_pairs(tensors, _PEFT_PREFIX, json.loads(config.read_text(encoding="utf-8")), source)


def _read_pairs(
    tensors: Mapping[str, Tensor], prefix: str, settings: Mapping[str, Any], source: Path
) -> dict[str, tuple[Tensor, Tensor, float]]:
    blocks = {}
    for key in dict.fromkeys(key.rsplit(".lora_", 1)[0] for key in tensors):
        A, B = _pair(tensors, f"{key}.lora_A.weight", f"{key}.lora_B.weight", source)
        name = key.removeprefix(prefix)
        alpha = settings.get("alpha_pattern", {}).get(f"^{name}", settings.get("lora_alpha", A.shape[0]))
        blocks[name] = (A, B, alpha / A.shape[0])
    return blocks


def _read_kohya(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> dict[str, Any]:
    blocks = {}
    for key in dict.fromkeys(key.split(".", 1)[0] for key in tensors):
        A, B = _pair(tensors, f"{key}.lora_down.weight", f"{key}.lora_up.weight", source)
        alpha = float(tensors[f"{key}.alpha"]) if f"{key}.alpha" in tensors else A.shape[0]
        match = _KOHYA_NAME.fullmatch(key.removeprefix(_KOHYA_PREFIX))
        if match is None:
            raise ValueError(f"{source} has {key}, which is no attention projection of a diffusers U-Net.")
        direction, block, mid, attention, layer, which, projection = match.groups()
        start = f"{direction}_blocks.{block}" if direction else f"{mid}_block"
        projection = projection.replace("to_out_0", "to_out.0")
        blocks[f"{start}.attentions.{attention}.transformer_blocks.{layer}.{which}.{projection}"] = (
            A,
            B,
            alpha / A.shape[0],
        )
    return blocks


def _pair(tensors: Mapping[str, Tensor], down: str, up: str, source: Path) -> tuple[Tensor, Tensor]:
    if down not in tensors or up not in tensors:
        raise ValueError(f"{source} lacks {down if down not in tensors else up}. It is cut off or no plain LoRA.")
    return tensors[down].float(), tensors[up].float()
