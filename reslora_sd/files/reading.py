"""Plain LoRA from the files of diffusers, PEFT and kohya's sd-scripts (ComfyUI, A1111)."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..blocks.plain import PlainBlock
from ..runs.names import DIFFUSERS_FILE
from .lora_file import UNET, LoRAFile, Origin
from .storage import load_tensors, reason

PEFT_FILE = "adapter_model.safetensors"
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_DIFFUSERS_PREFIX = "unet."
_PEFT_PREFIX = "base_model.model."
_KOHYA_PREFIX = "lora_unet_"
_FORMS = {_DIFFUSERS_PREFIX: "diffusers", _PEFT_PREFIX: "peft", _KOHYA_PREFIX: "kohya"}

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


def read_lora(path: str | os.PathLike[str]) -> LoRAFile:
    """A LoRA in any of the three forms: a file, or the folder that was written.

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
        blocks = readers[found[0]](tensors, metadata, source)
        Origin.from_metadata(metadata)
        return LoRAFile({UNET: blocks}, metadata, _FORMS[found[0]])
    except _UNREADABLE as error:
        if str(source) in str(error) or "adapter_config.json " in str(error):
            raise  # of ours
        beside = " and adapter_config.json" if found[0] == _PEFT_PREFIX else ""
        raise ValueError(f"{source}{beside}: no whole LoRA ({reason(error)}). Export it again.") from error


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
