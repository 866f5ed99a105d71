"""The pictures of a run made ready: those of the class drawn, all loaded, and compared with a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import RUN_FILE
from .class_pictures import check_class_folder, draw_class_pictures
from .data import CaptionedImages, Split, load_split
from .framing import Framing, framing_of, shapes_of
from .models import Parts
from .resuming import COPIES_KEY, check_pictures, looked_for_copies
from .settings import UnetSettings
from .sources import check_used

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare_data(
    settings: UnetSettings,
    parts: Parts,
    resolution: int,
    accelerator: Accelerator,
    run: RunFolder,
    checkpoint: Path | None,
) -> tuple[Split, Framing]:
    """The pictures of a run, and how they are framed.

    Raises:
        ValueError: as `check_used`, `check_class_folder`, `draw_class_pictures` and `load_split`; or the run that
            goes on was trained on other pictures.
    """
    if not run.owns(checkpoint):  # what a run began with goes on
        check_used(settings.data)
        check_class_folder(settings.data)
    draw_class_pictures(settings, parts, resolution, accelerator)
    split = load_split(
        settings,
        resolution,
        with_copies=run.owns(checkpoint) and not looked_for_copies(read_object(run.path / RUN_FILE, lambda _: None)),
    )
    framing = framing_of(settings.data, resolution, split.training, parts)
    check_pictures(run, checkpoint, describe_pictures(split.training, framing))
    return split, framing


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
