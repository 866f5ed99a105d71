"""Pictures and captions as people store them, made fit for training; scripts and page share it. No torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..files.texts import read_utf8

CAPTIONS_FILE = "metadata.jsonl"
"""A line a picture: `file_name` and `text`."""
HEIC = (".heic", ".heics", ".heif", ".heifs", ".hif")
_UNREADABLE = frozenset(".jxl .avif .svg .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .webp .jp2 .tif .tiff".split())
"""Pictures that Pillow, or an old or small build of it, can't open."""
_ORIENTATION = 0x0112
"""Tag of EXIF."""
_STUBS = ("BUFR", "GRIB", "HDF5", "MPEG")
"""Pillow knows their names but can't decode them: a film or a table beside the pictures isn't one."""


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its camera's EXIF tag says.

    Raises:
        ValueError: it has 32 bits a channel, whose white can be any number.
    """
    image = ImageOps.exif_transpose(image)
    check_depth(image)
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the picture is turned as its camera's EXIF tag says; nothing is decoded."""
    if image.format == "TIFF":  # Pillow turns these itself
        return image.size
    turned = Image.Image.getexif(image).get(_ORIENTATION) in (5, 6, 7, 8)  # a PNG's own getexif decodes it
    return (image.height, image.width) if turned else image.size


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture has an alpha channel, or one colour that stands for clear."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def as_rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF tag, transparency on white, RGB with 8 bits a channel.

    Raises:
        ValueError: as `upright`.
    """
    image = upright(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion makes nearly all of it white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if has_alpha(image):
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def check_depth(image: Image.Image) -> None:
    """Raises `ValueError` for 32 bits a channel."""
    if image.mode in ("I", "F"):
        raise ValueError(f"it has 32 bits a channel (mode {image.mode}), and not 8 or 16")


def picture_kinds() -> frozenset[str]:
    """Ends of the names of pictures that can be opened here; HEIC is one of them where pillow-heif is installed."""
    enable_heic()
    return _kinds(len(Image.registered_extensions()))


@functools.cache
def _kinds(known: int) -> frozenset[str]:
    """Of so many ends that Pillow knows."""
    ends = Image.registered_extensions()
    return frozenset(end for end, kind in ends.items() if kind in Image.OPEN and kind not in _STUBS)


@functools.cache
def enable_heic() -> bool:
    """Teaches Pillow to open HEIC, as phones write it; False without the package pillow-heif."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def unreadable_kind(end: str) -> str | None:
    """What to do about pictures whose names end so, if they can't be opened here; None for all other files."""
    if end in picture_kinds():
        return None
    if end in HEIC:
        return 'pip install "reslora-sd[heic]" reads them'
    return "save them as PNG or JPEG" if end in _UNREADABLE else None


def first_line(text: str) -> str:
    """The caption that a text file holds: its first line that isn't empty, as in kohya's scripts."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def metadata_rows(table: Path, name: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of a metadata.jsonl, each with its `file_name`.

    Args:
        name: as in `read_utf8`.

    Raises:
        ValueError: the file is no UTF-8, or a line holds no JSON object with a file_name; the message names it.
    """
    for number, line in enumerate(read_utf8(table, name).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["file_name"] = str(row["file_name"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{name or table}, line {number}: no JSON object with a file_name: {line[:80]!r}"
            ) from error
        yield number, row
