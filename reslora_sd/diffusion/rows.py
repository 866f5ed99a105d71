"""The pictures and captions in the rows of an opened data set."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from .captioned import CaptionedImages
from .folders import PICTURE_COLUMNS, PLACE, REPEATS
from .shards import CAPTION_NAMES, ShardRows

_COLUMNS = {"image": PICTURE_COLUMNS, "text": CAPTION_NAMES}


def captioned_images(
    rows: Any, name: str, image_column: str | None = None, caption_column: str | None = None
) -> CaptionedImages:
    """The pictures and captions of an opened data set.

    Raises:
        ValueError: a column is not there, or as `CaptionedImages`.
    """
    if isinstance(rows, ShardRows):
        if image_column is not None:
            raise ValueError(f"--image_column is {image_column!r}, but {name} has tar files, which have no columns.")
        return rows.images(name)
    import datasets

    columns = [column for column in rows.column_names if column not in (PLACE, REPEATS)]
    image_column = _column("image", image_column, columns, name)
    caption_column = _column("text", caption_column, columns, name)
    if not isinstance(rows.features[image_column], datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image())
    images = rows.select_columns([image_column])
    stored = images.cast_column(image_column, datasets.Image(decode=False))
    places = list(rows[PLACE]) if PLACE in rows.column_names else None

    def read(index: int) -> Any:
        return images[index][image_column]

    def glance(index: int) -> Any:
        file = files[index]
        if file:
            return Image.open(file)
        where = stored[index][image_column] or {}
        held, path = where.get("bytes"), where.get("path") or ""
        if held is None and not os.path.isfile(path):
            return read(index)
        return Image.open(io.BytesIO(held) if held is not None else path)

    files = _files(stored, image_column)
    found = CaptionedImages(list(rows[caption_column]), read, name, places, glance)
    found.files = files
    if REPEATS in rows.column_names:
        found.repeats = list(rows[REPEATS])
    return found


def picture_files(rows: Any, name: str, image_column: str | None = None) -> list[str | None]:
    """Where the picture of each row is, if it is a file of its own.

    Raises:
        ValueError: the column is not there.
    """
    if isinstance(rows, ShardRows):
        return [None] * len(rows)
    import datasets

    column = _column("image", image_column, [one for one in rows.column_names if one not in (PLACE, REPEATS)], name)
    return _files(rows.select_columns([column]).cast_column(column, datasets.Image(decode=False)), column)


def _files(stored: Any, column: str) -> list[str | None]:
    if len(stored) and (stored[0][column] or {}).get("bytes") is None:  # as `open_folder` makes rows
        paths = stored.flatten()[f"{column}.path"]
        return [path if path and os.path.isfile(path) else None for path in paths]
    return [None] * len(stored)


def _column(kind: str, asked: str | None, columns: Sequence[str], name: str) -> str:
    flag = "image_column" if kind == "image" else "caption_column"
    if asked is not None and asked not in columns:
        raise ValueError(f"--{flag} is {asked!r}, but {name} has the columns {', '.join(columns)}.")
    found = asked or next((column for column in _COLUMNS[kind] if column in columns), None)
    if found is None:
        raise ValueError(
            f"{name} has the columns {', '.join(columns)}, none named like {kind}. Rename one to {kind!r}, "
            f"or choose one with --{flag} where a script has it."
        )
    return found
