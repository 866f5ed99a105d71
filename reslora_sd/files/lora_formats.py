"""Plain LoRA to and from the files of diffusers, PEFT and kohya's sd-scripts (ComfyUI, A1111).

Facts of the forms, read in huggingface/diffusers `loaders/peft.py` and `utils/peft_utils.py`: keys need the prefix
`unet.`; the scale is `lora_alpha / r` of the metadata entry `lora_adapter_metadata` (fields of PEFT's LoraConfig,
prefixed too); without it kohya's `.alpha`, and without that the rank; both together raise.

Names are converted by diffusers and PEFT; scales, checks and metadata are ours.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.plain import PlainBlock
from ..config import ResLoRAConfig
from ..runs.names import DIFFUSERS_FILE
from .storage import load_tensors, reason, save_tensors

PEFT_FILE = "adapter_model.safetensors"
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_DIFFUSERS_PREFIX = "unet."
_PEFT_PREFIX = "base_model.model."
_KOHYA_PREFIX = "lora_unet_"

_UNREADABLE = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    re.error,
)
"""What diffusers, PEFT and json raise for a damaged file."""

Blocks = Mapping[str, PlainBlock]
"""A LoRA's pairs by the path of their linear in the model."""


@dataclass(frozen=True)
class Origin:
    """Where a LoRA comes from, as its file's metadata tell."""

    config: ResLoRAConfig | None = None
    """Settings of the adapter that was merged; `None` for a LoRA of others."""
    approach: str = "none"
    """How it was merged."""

    def to_metadata(self) -> dict[str, str]:
        """Entries for the file."""
        settings = {"reslora_config": self.config.to_json()} if self.config else {}
        return {"format": "pt", "reslora_merge_approach": self.approach, **settings}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Origin:
        """The reverse of `to_metadata`."""
        settings = metadata.get("reslora_config")
        config = ResLoRAConfig.from_json(settings) if settings else None
        return cls(config, metadata.get("reslora_merge_approach", "none"))


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
    save_tensors(target / PEFT_FILE, {**tensors, **_matrices(blocks, _PEFT_PREFIX)}, origin.to_metadata())
    settings = LoraConfig(
        **_peft_settings(blocks),
        base_model_name_or_path=base_model,
        inference_mode=True,
        task_type=task_type,
        modules_to_save=sorted({name.split(".", 1)[0] for name in trained_modules}) or None,
    )
    settings.save_pretrained(str(target))
    return str(target)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, PlainBlock], Origin]:
    """Blocks and origin of a LoRA of a U-Net in any of the three forms.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds other keys too, or is no LoRA.
    """
    source = Path(path)
    if source.is_dir():
        names = [name for name in (DIFFUSERS_FILE, PEFT_FILE) if (source / name).is_file()]
        if len(names) != 1:
            raise FileNotFoundError(
                f"{path} holds {' and '.join(names) or f'neither {DIFFUSERS_FILE} nor {PEFT_FILE}'}. Name the file "
                "itself."
            )
        source = source / names[0]
    tensors, metadata = load_tensors(source)
    readers = {_DIFFUSERS_PREFIX: _read_diffusers, _PEFT_PREFIX: _read_peft, _KOHYA_PREFIX: _read_kohya}
    found = [prefix for prefix in readers if any(key.startswith(prefix) for key in tensors)]
    if len(found) != 1 or not all(key.startswith(found[0]) for key in tensors):
        stray = next((key for key in tensors if not found or not key.startswith(found[0])), "nothing")
        raise ValueError(
            f"{source} is no LoRA of a U-Net alone: it has {stray!r} beside keys that start with {found or 'no'} known "
            f"prefix. Keys must all start with one of {', '.join(readers)}."
        )
    try:
        return readers[found[0]](tensors, metadata, source), Origin.from_metadata(metadata)
    except _UNREADABLE as error:
        if str(source) in str(error) or "adapter_config.json " in str(error):
            raise  # of ours
        beside = " and adapter_config.json" if found[0] == _PEFT_PREFIX else ""
        raise ValueError(f"{source}{beside}: no whole LoRA ({reason(error)}). Export it again.") from error


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


def _read_diffusers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> dict[str, PlainBlock]:
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft  # knows the older names too

    settings = json.loads(metadata.get(_DIFFUSERS_METADATA, "{}"))
    settings = {key.removeprefix(_DIFFUSERS_PREFIX): value for key, value in settings.items()}
    return _read_matrices(convert_unet_state_dict_to_peft(tensors), _DIFFUSERS_PREFIX, settings, source)


def _read_peft(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> dict[str, PlainBlock]:
    """PEFT's own `load_peft_weights` would ask the Hub for a missing file, and unpickle another."""
    from peft import LoraConfig, PeftConfig

    config = source.parent / "adapter_config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{source} has no adapter_config.json beside it, so its scale is unknown.")
    try:
        settings = PeftConfig.from_pretrained(str(source.parent))
    except _UNREADABLE as error:
        raise ValueError(f"{config} can't be read ({reason(error)}). Export the LoRA again.") from error
    if not isinstance(settings, LoraConfig):
        raise ValueError(f"{config} is a {type(settings).__name__.removesuffix('Config')} adapter of PEFT, no LoRA.")
    return _read_matrices(tensors, _PEFT_PREFIX, settings.to_dict(), source)


def _read_kohya(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> dict[str, PlainBlock]:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    down, up, alpha = ".lora_down.weight", ".lora_up.weight", ".alpha"
    stems = _stems(tensors, (down, up, alpha), source)
    pairs = {stem: _pair(tensors, stem + down, stem + up, source) for stem in stems}
    # Not its alphas: they come back as patterns of modules, which here are the pairs themselves.
    renamed, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(tensors))
    paths = {key.rsplit(".lora_", 1)[0] for key in convert_unet_state_dict_to_peft(renamed)}
    names = {"lora_" + path.replace(".", "_"): path.removeprefix(_DIFFUSERS_PREFIX) for path in paths}
    blocks = {}
    for stem, (A, B) in pairs.items():
        if stem not in names:  # such as SDXL's lora_unet_input_blocks_...
            raise ValueError(f"{source} has {stem}, which is no module of a diffusers U-Net.")
        scale = float(tensors[stem + alpha]) if stem + alpha in tensors else A.shape[0]
        blocks[names[stem]] = PlainBlock(A, B, scale / A.shape[0])
    return blocks


def _read_matrices(
    tensors: Mapping[str, Tensor], prefix: str, settings: Mapping[str, Any], source: Path
) -> dict[str, PlainBlock]:
    A_end, B_end = ".lora_A.weight", ".lora_B.weight"
    blocks = {}
    for stem in _stems(tensors, (A_end, B_end), source):
        A, B = _pair(tensors, stem + A_end, stem + B_end, source)
        name = stem.removeprefix(prefix)
        blocks[name] = PlainBlock(A, B, _scaling(name, A.shape[0], settings))
    return blocks


def _scaling(name: str, r: int, settings: Mapping[str, Any]) -> float:
    """As PEFT reads its LoraConfig; without `lora_alpha` the rank, as diffusers has it."""
    from peft.utils.other import get_pattern_key

    patterns = settings.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns, name), settings.get("lora_alpha", r)))
    return alpha / (math.sqrt(r) if settings.get("use_rslora") else r)


def _stems(tensors: Mapping[str, Tensor], endings: tuple[str, ...], source: Path) -> list[str]:
    """What stands before the endings, each once. A key with none of them, such as DoRA's, must not be lost."""
    stems: dict[str, None] = {}
    for key in tensors:
        ending = next((ending for ending in endings if key.endswith(ending)), None)
        if ending is None:
            raise ValueError(f"{source} has {key}, which is no part of a plain LoRA ({', '.join(endings)}).")
        stems[key.removesuffix(ending)] = None
    return list(stems)


def _pair(tensors: Mapping[str, Tensor], down: str, up: str, source: Path) -> tuple[Tensor, Tensor]:
    if down not in tensors or up not in tensors:
        raise ValueError(f"{source} lacks {down if down not in tensors else up}. It is cut off or no plain LoRA.")
    A, B = tensors[down].float(), tensors[up].float()
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1] or not len(A):
        raise ValueError(
            f"{source} is no plain LoRA of linears: {down} is {tuple(A.shape)} and {up} {tuple(B.shape)}, which are no "
            "(rank, in) and (out, rank)."
        )
    return A, B
