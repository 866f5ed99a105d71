"""Pictures and captions as people store them, made fit for training; scripts and page share it. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

CAPTIONS_FILE = "metadata.jsonl"
"""A line a picture: `file_name` and `text`."""


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its camera's EXIF tag says.

    Raises:
        ValueError: it has 32 bits a channel, whose white can be any number.
    """
    image = ImageOps.exif_transpose(image)
    check_depth(image)
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF tag, transparency on white, RGB with 8 bits a channel.

    Raises:
        ValueError: as `upright`.
    """
    image = upright(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion makes nearly all of it white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def check_depth(image: Image.Image) -> None:
    """Raises `ValueError` for 32 bits a channel."""
    if image.mode in ("I", "F"):
        raise ValueError(f"it has 32 bits a channel (mode {image.mode}), and not 8 or 16")


def read_utf8(file: Path, name: str | None = None) -> str:
    """The text of a file.

    Args:
        name: what errors call it, where its path is nobody's business.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before it
    except UnicodeDecodeError as error:
        raise ValueError(f"{name or file} is no UTF-8 text: {error}. Save it as UTF-8.") from error


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
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{name or table}, line {number}: no JSON object with a file_name: {line[:80]!r}"
            ) from error
        yield number, row
