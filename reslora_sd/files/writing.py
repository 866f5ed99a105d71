"""A LoRA to the files of diffusers, PEFT, and kohya's sd-scripts (ComfyUI, A1111) under either of its names.

Facts of the forms, read in huggingface/diffusers `loaders/peft.py`, `loaders/lora_base.py` and `utils/peft_utils.py`:
keys need the prefix of their component; the scale is `lora_alpha / r` of the metadata entry `lora_adapter_metadata`
(fields of PEFT's LoraConfig, prefixed too); without it kohya's `.alpha`, and without that 1. What others call the
modules is in `unet_names.py`.

Files for pipelines have the scale in `lora_B`, and `lora_alpha = r`: readers that look at no metadata are right, too.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Precision
from ..runs.names import DIFFUSERS_FILE
from .lora_file import (
    DIFFUSERS_METADATA,
    PEFT_FILE,
    PEFT_PREFIX,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TRANSFORMER,
    UNET,
    Blocks,
)
from .lora_metadata import with_hashes
from .rounding import Rounded, rounded
from .storage import save_tensors
from .unet_names import Topology, guess_topology, kohya_stem

Components = Mapping[str, Blocks]
"""By `lora_file.COMPONENTS`."""


@dataclass(frozen=True)
class Written:
    """A file that was written."""

    path: str
    precision: Precision
    """Of its numbers; float32 where they don't fit the precision that was asked for, which is told."""
    error: float
    """||delta W in the file - delta W|| / ||delta W|| over all blocks."""


def write_diffusers(
    path: str | os.PathLike[str], components: Components, metadata: Mapping[str, str], precision: Precision = "float32"
) -> Written:
    """Keys `unet.<path>.lora_A.weight`, for `load_lora_weights` and readers of its form.

    diffusers' own `save_lora_weights` takes no further metadata, and writes into the file's place directly.

    Args:
        path: a .safetensors file, or a folder, in which the file gets diffusers' name.
        metadata: what `lora_metadata.describe` gives.
    """
    target = Path(path)
    target = target if target.suffix == ".safetensors" else target / DIFFUSERS_FILE
    found = rounded(components, precision, lambda block: 1.0, target)
    settings, tensors = {}, {}
    for component, blocks in found.components.items():
        tensors.update(_matrices(blocks, f"{component}."))
        # transformers 4 has text_model. before a text encoder's paths, and 5 mostly not; PEFT compares ends of paths
        names = {
            name if component in (UNET, TRANSFORMER) else name.removeprefix("text_model."): blocks[name]
            for name in blocks
        }
        anchor = "^" if component in (UNET, TRANSFORMER) else ""
        settings.update({f"{component}.{key}": value for key, value in peft_settings(names, anchor).items()})
    return _write(target, tensors, {**metadata, DIFFUSERS_METADATA: json.dumps(settings, sort_keys=True)}, found)


def write_kohya(
    path: str | os.PathLike[str],
    components: Components,
    metadata: Mapping[str, str],
    precision: Precision = "float32",
    topology: Topology | None = None,
    sai: bool | None = None,
) -> Written:
    """Keys `lora_unet_<module with underscores>.lora_down.weight`, `.lora_up.weight` and `.alpha`.

    All blocks have one alpha, the commonest rank; what a block's scale has beyond it is in `lora_up`. diffusers' reader
    loses alphas that differ: its pattern keys match no module.

    Args:
        topology: of the U-Net; left out, it is guessed from the paths.
        sai: whether the U-Net's modules have the names of Stability AI's code, or else diffusers'. Left out: as kohya's
            own tools want it, for SDXL.

    Raises:
        ValueError: the path is no .safetensors file, or a module has no such name.
    """
    target, topology = Path(path), topology or guess_topology(components)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} is no file name for a kohya LoRA. It must end in .safetensors.")
    ranks = Counter(block.r for blocks in components.values() for block in blocks.values())
    alpha = float(max(ranks, key=ranks.__getitem__, default=1))
    found = rounded(components, precision, lambda block: alpha / block.r, target)
    tensors: dict[str, Tensor] = {}
    for component, blocks in found.components.items():
        for name, block in blocks.items():
            stem = kohya_stem(component, name, topology, sai)
            tensors[f"{stem}.lora_down.weight"] = block.lora_A
            tensors[f"{stem}.lora_up.weight"] = block.lora_B
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    return _write(target, tensors, metadata, found)


def write_peft(
    folder: str | os.PathLike[str],
    components: Components,
    metadata: Mapping[str, str],
    precision: Precision = "float32",
    base_model: str = "",
    task_type: str | None = None,
    trained_modules: Mapping[str, Tensor] | None = None,
) -> Written:
    """`adapter_config.json` (PEFT's own LoraConfig writes it) and `adapter_model.safetensors`.

    PEFT's `get_peft_model_state_dict` names the keys of a model that PEFT has wrapped, which there is none of here.
    Scales stay in the configuration, without which PEFT loads nothing.

    Args:
        folder: of one component; several, and `text_encoder_2`, get folders of their own in it, by their names.
        base_model: name or path that PEFT loads the base model from, where it is asked to.
        trained_modules: parameters that were trained whole, by their path.

    Raises:
        ValueError: there are several components and trained modules, which could be of any.
    """
    from peft import LoraConfig

    found, heads = rounded(components, precision, lambda block: block.scaling, folder), trained_modules or {}
    # a second text encoder's names alone don't say that it is one
    several = len(found.components) > 1 or TEXT_ENCODER_2 in found.components
    if heads and several:
        raise ValueError(f"Trained modules belong to one model of {', '.join(found.components)}. Save them apart.")
    for component, blocks in found.components.items():
        target = Path(folder) / component if several else Path(folder)
        blocks = _as_transformers_has_it(component, blocks)
        tensors = {f"{PEFT_PREFIX}{name}": value for name, value in heads.items()}
        save_tensors(target / PEFT_FILE, {**tensors, **_matrices(blocks, PEFT_PREFIX)}, metadata)
        settings = LoraConfig(
            **peft_settings(blocks, "^"),
            base_model_name_or_path=base_model,
            inference_mode=True,
            task_type=task_type,
            modules_to_save=sorted({_trained_module(name, blocks) for name in heads}) or None,
        )
        settings.save_pretrained(str(target))
    return Written(str(folder), found.precision, found.error)


def _as_transformers_has_it(component: str, blocks: Blocks) -> Blocks:
    """PEFT compares whole names. Later versions of transformers 5 have no `text_model` in a `CLIPTextModel`, which is a
    pipeline's first text encoder; the second one, with its projection, keeps it.
    """
    if component != TEXT_ENCODER:
        return blocks
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(num_hidden_layers=1))
    return (
        blocks if hasattr(model, "text_model") else {path.removeprefix("text_model."): blocks[path] for path in blocks}
    )


def _trained_module(parameter: str, blocks: Blocks) -> str:
    """The module that PEFT is to replace as a whole: a child of the model; inside the base model, the parameter's own.

    A new pooler of BERT's is inside it, and PEFT puts no LoRA into a module that it replaces.
    """
    child = parameter.partition(".")[0]
    inside = any(name.startswith(f"{child}.") for name in blocks)
    return parameter.rpartition(".")[0] if inside else child


def _write(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], found: Rounded) -> Written:
    blocks = [block for blocks in found.components.values() for block in blocks.values()]
    ranks, alphas = {block.r for block in blocks}, {block.scaling * block.r for block in blocks}
    network = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
    }
    save_tensors(target, tensors, with_hashes(tensors, {**metadata, **network}))
    return Written(str(target), found.precision, found.error)


def _matrices(blocks: Blocks, prefix: str) -> dict[str, Tensor]:
    """PEFT's naming of the matrices, which diffusers shares."""
    tensors = {}
    for name, block in blocks.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = block.lora_A
        tensors[f"{prefix}{name}.lora_B.weight"] = block.lora_B
    return tensors


def peft_settings(blocks: Blocks, anchor: str) -> dict[str, Any]:
    """Fields of PEFT's LoraConfig. Only old ones: an unknown field makes an older PEFT refuse the file."""
    sizes = {name: (block.r, block.scaling * block.r) for name, block in blocks.items()}
    (r, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {f"{anchor}{name}": size[0] for name, size in sizes.items() if size[0] != r},
        "alpha_pattern": {f"{anchor}{name}": size[1] for name, size in sizes.items() if size[1] != alpha},
        "target_modules": sorted(sizes),
        "lora_dropout": 0.0,
        "bias": "none",
    }
