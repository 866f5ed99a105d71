"""What a conversion starts from: a LoRA file, or the adapter of a run, which is merged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files.lora_file import MODEL, UNET, Blocks, LoRAFile, Origin
from ..files.lora_metadata import Family
from ..files.reading import read_lora
from ..files.unet_names import SD, SDXL, Topology, guess_topology

_WRITTEN_ANEW = re.compile(
    r"lora_adapter_metadata|format|ss_network_(module|dim|alpha)|sshs_.*|modelspec\.hash_sha256|"
    r"reslora_(?!lora_alpha$).*"
)
"""Entries that say something of a file's own form and numbers. What alpha was in training stays."""


@dataclass(frozen=True)
class Source:
    """A LoRA before it is changed and written."""

    components: Mapping[str, Blocks]
    form: str
    """Of the file, or `diffusers` for a merge."""
    origin: Origin
    details: Mapping[str, str]
    """What the new file's metadata keep."""
    topology: Topology
    family: Family | None = None
    """Of the base model, where it was at hand."""
    base_model: str = ""
    """Name or path of it, where that is known."""
    task_type: str | None = None
    """PEFT's, of a PEFT folder."""


def read_source(path: Path) -> Source:
    """A LoRA in any form.

    Raises:
        FileNotFoundError, ValueError: as `read_lora`.
    """
    file = read_lora(path)
    details = {name: value for name, value in file.metadata.items() if not _WRITTEN_ANEW.fullmatch(name)}
    topology = topology_of_file(file)
    return Source(
        file.components, file.form, file.origin, details, topology, base_model=file.base_model, task_type=file.task_type
    )


def topology_of_file(file: LoRAFile) -> Topology:
    """By what the metadata say, or else by the names of the modules."""
    said = f"{file.metadata.get('modelspec.architecture', '')} {file.metadata.get('ss_base_model_version', '')}"
    if MODEL in file.components:
        return SD
    if re.search(r"stable-diffusion-xl|\bsdxl", said):
        return SDXL
    if re.search(r"stable-diffusion-v[12]|\bsd_v[12]", said):
        return SD
    of_sd = any(path.startswith(("down_blocks.0.attentions.", "up_blocks.3.")) for path in file.blocks(UNET))
    return SDXL if file.form == "sai" and not of_sd else guess_topology(file.components)
