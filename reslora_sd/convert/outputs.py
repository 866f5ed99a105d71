"""Where a conversion writes, and how: nothing that is there is replaced unasked, and nothing is left half written."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..config import Precision
from ..files.lora_file import COMPONENTS, MODEL, PEFT_FILE, PEFT_SETTINGS, Blocks
from ..files.unet_names import Topology
from ..files.writing import Written, write_diffusers, write_kohya, write_peft
from ..runs.names import DIFFUSERS_FILE

_NOUNS = {
    "diffusers": "A LoRA for diffusers",
    "peft": "A PEFT adapter",
    "kohya": "A kohya LoRA",
    "sai": "A kohya LoRA",
    "pipeline": "A pipeline",
}


def check_free(target: Path, form: str, overwrite: bool) -> Path:
    """Where the form is written: the file itself, or the folder.

    Args:
        form: one of `lora_file.FORMS`, or `pipeline`.

    Raises:
        ValueError: there is something already, or OUT's name doesn't fit the form.
    """
    is_file, noun = target.suffix == ".safetensors", _NOUNS[form]
    if form in ("kohya", "sai") and not is_file:
        raise ValueError(f"OUT is {target}. {noun} is one file: its name must end in .safetensors.")
    if form in ("peft", "pipeline") and is_file:
        raise ValueError(f"OUT is {target}. {noun} is a folder: give the name of one.")
    place = target / DIFFUSERS_FILE if form == "diffusers" and not is_file else target
    if (is_file and place.is_dir()) or (not is_file and target.is_file()):
        raise ValueError(f"OUT is {target}, which is a {'folder' if is_file else 'file'}. Choose another name.")
    if _is_there(place) and not overwrite:
        raise ValueError(f"{place} is there already. Choose another name, or replace it with --overwrite.")
    if form == "pipeline" and _is_there(place) and not (place / "model_index.json").is_file():
        raise ValueError(f"{place} holds something else than a pipeline, and isn't replaced. Choose another name.")
    return place


def _is_there(place: Path) -> bool:
    return any(place.iterdir()) if place.is_dir() else place.exists()


def write(
    form: str,
    place: Path,
    components: Mapping[str, Blocks],
    metadata: Mapping[str, str],
    precision: Precision,
    topology: Topology,
    base_model: str = "",
    task_type: str | None = None,
) -> Written:
    """One LoRA in one form; the place is from `check_free`, and the last two are for PEFT.

    `kohya` writes the names that kohya's own scripts use for such a model, which for SDXL are those of `sai`.

    Raises:
        ValueError: the form has no names for a part of it.
    """
    if MODEL in components and form != "peft":
        raise ValueError(f"This LoRA is of no Stable Diffusion model, so it has no {form} form. Only --to peft fits.")
    if form == "diffusers":
        return write_diffusers(place, components, metadata, precision)
    if form == "peft":
        with new_folder(place, merged=True) as folder:
            written = write_peft(folder, components, metadata, precision, base_model, task_type)
            left = [path for path in _peft_files(place) if not (folder / path.relative_to(place)).exists()]
        for path in left:  # of the LoRA that was there: a reader would take them for parts of this one
            path.unlink()
        return Written(str(place), written.precision, written.error)
    return write_kohya(place, components, metadata, precision, topology, sai=True if form == "sai" else None)


def _peft_files(folder: Path) -> list[Path]:
    """The files of an adapter for one model, or for several, that a folder may hold."""
    places = (folder, *(folder / component for component in COMPONENTS))
    return [one / name for one in places for name in (PEFT_FILE, PEFT_SETTINGS) if (one / name).is_file()]


@contextmanager
def new_folder(place: Path, merged: bool = False) -> Iterator[Path]:
    """A folder beside `place` that takes its place when the block ends without an error.

    Args:
        merged: files of `place` that the new folder doesn't have stay.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    building = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    building.mkdir()
    try:
        yield building
        if merged and place.is_dir():
            for file in sorted(path for path in building.rglob("*") if path.is_file()):
                target = place / file.relative_to(building)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        else:
            old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
            if place.exists():
                os.replace(place, old)
            os.replace(building, place)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
