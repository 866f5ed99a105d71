"""Plain LoRA to the files of diffusers, PEFT and kohya's sd-scripts (ComfyUI, A1111).

Facts of the forms, read in huggingface/diffusers `loaders/peft.py` and `utils/peft_utils.py`: keys need the prefix
`unet.`; the scale is `lora_alpha / r` of the metadata entry `lora_adapter_metadata` (fields of PEFT's LoraConfig,
prefixed too); without it kohya's `.alpha`, and without that the rank; both together raise.

Names are converted by diffusers and PEFT; scales, checks and metadata are ours.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.plain import PlainBlock
from ..runs.names import DIFFUSERS_FILE
from .lora_file import Blocks, Origin
from .storage import save_tensors

_PEFT_FILE = "adapter_model.safetensors"
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_DIFFUSERS_PREFIX = "unet."
_PEFT_PREFIX = "base_model.model."


def save_diffusers(path: str | os.PathLike[str], blocks: Blocks, origin: Origin, details: Mapping[str, str]) -> str:
    """Keys `unet.<path>.lora_A.weight`; scale, ranks and ResLoRA's settings in the metadata.

    diffusers' own `save_lora_weights` takes no further metadata, and writes into the file's place directly.
    """
    target = Path(path)
    target = target if target.suffix == ".safetensors" else target / DIFFUSERS_FILE
    settings = {_DIFFUSERS_PREFIX + key: value for key, value in _peft_settings(blocks).items()}
    metadata = {**_metadata(blocks, origin, details), _DIFFUSERS_METADATA: json.dumps(settings, sort_keys=True)}
    save_tensors(target, _matrices(blocks, _DIFFUSERS_PREFIX), metadata)
    return str(target)


def save_kohya(path: str | os.PathLike[str], blocks: Blocks, origin: Origin, details: Mapping[str, str]) -> str:
    """Keys `lora_unet_<path with underscores>.lora_down.weight`, and one `.alpha` for all.

    diffusers' converter sets alpha to the rank, and its reader loses alphas that differ (its pattern keys match no
    module). So there is one alpha, and what a block's scale has beyond it is folded into `lora_up`.
    """
    from diffusers.utils import convert_state_dict_to_kohya

    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"{path} is no file name for a kohya LoRA. It must end in .safetensors.")
    alpha = float(_peft_settings(blocks)["lora_alpha"])
    folded = {
        name: PlainBlock(block.lora_A, block.lora_B * (block.scaling * block.r / alpha), alpha / block.r)
        for name, block in blocks.items()
    }
    tensors: dict[str, Tensor] = convert_state_dict_to_kohya(_matrices(folded, _DIFFUSERS_PREFIX))
    tensors.update({key: torch.tensor(alpha) for key in tensors if key.endswith(".alpha")})
    save_tensors(target, tensors, _metadata(blocks, origin, details))
    return str(target)


def save_peft(
    folder: str | os.PathLike[str],
    blocks: Blocks,
    origin: Origin,
    base_model: str,
    task_type: str | None,
    trained_modules: Mapping[str, Tensor],
) -> str:
    """`adapter_config.json` (PEFT's own LoraConfig writes it) and `adapter_model.safetensors`.

    PEFT's `get_peft_model_state_dict` names the keys of a model that PEFT has wrapped, which there is none of here.
    """
    from peft import LoraConfig

    target = Path(folder)
    tensors = {f"{_PEFT_PREFIX}{name}": value for name, value in trained_modules.items()}
    save_tensors(target / _PEFT_FILE, {**tensors, **_matrices(blocks, _PEFT_PREFIX)}, origin.to_metadata())
    settings = LoraConfig(
        **_peft_settings(blocks),
        base_model_name_or_path=base_model,
        inference_mode=True,
        task_type=task_type,
        modules_to_save=sorted({name.split(".", 1)[0] for name in trained_modules}) or None,
    )
    settings.save_pretrained(str(target))
    return str(target)


def _matrices(blocks: Blocks, prefix: str) -> dict[str, Tensor]:
    """PEFT's naming of the matrices, which diffusers shares."""
    tensors = {}
    for name, block in blocks.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = block.lora_A
        tensors[f"{prefix}{name}.lora_B.weight"] = block.lora_B
    return tensors


def _peft_settings(blocks: Blocks) -> dict[str, Any]:
    """Fields of PEFT's LoraConfig. Only old ones: an unknown field makes an older PEFT refuse the file."""
    sizes = {name: (block.r, block.scaling * block.r) for name, block in blocks.items()}
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


def _metadata(blocks: Blocks, origin: Origin, details: Mapping[str, str]) -> dict[str, str]:
    """What users' tools like to see (kohya's `ss_` names and modelspec), and how the LoRA came about."""
    ranks = {block.r for block in blocks.values()}
    alphas = {block.scaling * block.r for block in blocks.values()}
    method = origin.config.method if origin.config else "lora"
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
    return {**metadata, **origin.to_metadata(), **details}
