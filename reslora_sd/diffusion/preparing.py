"""The pictures of a run made ready: those of the class drawn, all loaded, and compared with a run that goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import RUN_FILE
from .adapters import add_adapters
from .class_pictures import check_class_folder, draw_class_pictures
from .data import CaptionedImages, Split, load_split
from .framing import Framing, framing_of, shapes_of
from .models import Parts
from .resuming import COPIES_KEY, check_pictures, looked_for_copies
from .settings import UnetSettings
from .sources import check_used
from .starting import Start

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare_data(
    settings: UnetSettings,
    parts: Parts,
    resolution: int,
    accelerator: Accelerator,
    run: RunFolder,
    checkpoint: Path | None,
    start: Start,
) -> tuple[Split, Framing]:
    """The pictures of a run, and how they are framed.

    Raises:
        ValueError: as `check_used`, `check_class_folder`, `check_adapters`, `draw_class_pictures` and `load_split`; or
            the run that goes on was trained on other pictures.
    """
    if not run.owns(checkpoint):  # what a run began with goes on
        check_used(settings.data)
        check_class_folder(settings.data)
    if settings.data.class_prompt:
        check_adapters(settings, parts, start, accelerator.distributed_type)
    draw_class_pictures(settings, parts, resolution, accelerator)
    split = load_split(
        settings,
        resolution,
        with_copies=run.owns(checkpoint) and not looked_for_copies(read_object(run.path / RUN_FILE, lambda _: None)),
    )
    framing = framing_of(settings.data, resolution, split.training, parts)
    check_pictures(run, checkpoint, describe_pictures(split.training, framing))
    return split, framing


def check_adapters(settings: UnetSettings, parts: Parts, start: Start, distributed: str = "NO") -> None:
    """Whether the adapters fit the model and what they start from, before pictures are drawn for an hour.

    They are made and taken out again: nothing is left of them, and no random number is used up.

    Raises:
        ValueError: as `add_adapters` and `Start.check`.
    """
    plain = replace(settings, training=replace(settings.training, gradient_checkpointing=False))
    training, adapted = [encoder.training for encoder in parts.text_encoders.values()], parts.adapted_text
    with torch.random.fork_rng(devices=[]):
        adapters = add_adapters(parts, plain, distributed)
    try:
        start.check(adapters)
    finally:
        adapters.remove()
        parts.adapted_text = adapted
        for encoder, before in zip(parts.text_encoders.values(), training, strict=True):
            encoder.train(before)


def describe_pictures(images: CaptionedImages, framing: Framing) -> dict[str, object]:
    """What run.json says of them: how many there are, how often they are met, and at which sizes."""
    shapes = {f"{width}x{height}": count for (width, height), count in shapes_of(images, framing).items()}
    found: dict[str, object] = {
        "name": images.name,
        "pictures": len(images),
        "in_an_epoch": sum(images.repeats),
        "shapes": shapes,
    }
    if images.copies_left_out is not None:
        found[COPIES_KEY] = images.copies_left_out
    return {**found, "of_the_class": sum(images.priors)} if any(images.priors) else found
