"""One conversion, from reading to writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..files.lora_file import MODEL, UNET, Blocks
from ..files.lora_metadata import TRAINED_ALPHA, describe
from ..merging.plain_lora import PlainLoRA
from ..training.command import quiet_libraries
from .changes import changed
from .outputs import check_free, write
from .settings import Conversion, ConvertSettings
from .sources import Source, read_source


def convert(command: Conversion) -> list[str]:
    """Reads, changes and writes one LoRA; gives what happened, a line for each thing.

    Raises:
        FileNotFoundError, ValueError: IN can't be read, OUT is there, or the one doesn't fit the other.
    """
    settings, told = command.settings, []
    asked = "pipeline" if settings.fuse else settings.to or ("diffusers" if settings.merge else None)
    if asked:
        check_free(command.target, asked, settings.overwrite)  # before anything that takes time
    if settings.merge or settings.fuse:
        quiet_libraries()  # before diffusers is imported, and says what it lacks
    if settings.merge:
        from .merging import merge_adapter

        merged = merge_adapter(command.source, settings)
        source, error = merged.source, merged.error
        known = f"; a branch's output is off by at most {error:.2%}" if error is not None else ""
        told.append(f"Merged by {merged.plain.approach}{known}.")
    else:
        source = read_source(command.source)
    form = asked or source.form
    place = check_free(command.target, form, settings.overwrite)
    change = changed(source.components, settings.rank, settings.strength)
    finish = _fuse if settings.fuse else _save
    return [*told, *change.told, finish(source, change.components, form, place, settings)]


def _save(source: Source, components: Mapping[str, Blocks], form: str, place: Path, settings: ConvertSettings) -> str:
    if MODEL in components:
        metadata = source.origin.to_metadata()
    else:
        same = settings.strength == 1 and settings.rank is None  # as in training
        details = {name: value for name, value in source.details.items() if same or name != TRAINED_ALPHA}
        metadata = describe(components, source.origin, details, source.family)
    about = source.base_model, source.task_type
    written = write(form, place, components, metadata, settings.precision, source.topology, *about)
    rounded = f"; rounding changes it by {written.error:.2g}" if written.precision != "float32" else ""
    named = f"{form} (SDXL's original names)" if form == "kohya" and source.topology.sdxl else form
    return f"{written.path}: {named}, {_counts(components)}, {written.precision}{rounded}."


def _fuse(source: Source, components: Mapping[str, Blocks], form: str, place: Path, settings: ConvertSettings) -> str:
    from .fusing import fuse

    assert settings.fuse is not None
    if MODEL in components:
        raise ValueError(
            "This LoRA is of no Stable Diffusion model, so there is no pipeline that it can be fused into."
        )
    others = {name: blocks for name, blocks in components.items() if name != UNET}
    plain = PlainLoRA(components.get(UNET, {}), text_encoders=others)
    rounding = fuse(plain, settings.fuse, place, settings.precision, settings.model_config, settings.prediction_type)
    return f"{place}: {settings.fuse} with {_counts(components)} in its weights; largest rounding {rounding:.2g}."


def _counts(components: Mapping[str, Blocks]) -> str:
    return ", ".join(f"{len(blocks)} modules of {name}" for name, blocks in components.items())
