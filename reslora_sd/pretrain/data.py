"""Captioned drawings for pretraining: read a folder, check it, split it by name.

Two layouts are read, the ones that `datasets.load_dataset` reads as well:

* parquet files with the columns `image` (struct with PNG `bytes`) and `text`, and, if they are there,
  `codepoint` and `set`;
* an imagefolder: pictures and a `metadata.jsonl` or `metadata.csv` with the columns `file_name` and `text`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..diffusion.data import as_rgb


@dataclass(frozen=True)
class Drawings:
    """Square pictures with captions; entry i of every field belongs to drawing i."""

    pictures: Tensor
    """(n, 3, size, size), uint8, on white."""
    captions: tuple[str, ...]
    """What the drawing is called."""
    sets: tuple[str, ...]
    """The design set that it comes from (column `set`, else the name of the file or folder)."""
    names: tuple[str, ...]
    """What the split goes by: the code point where the data has one, else the caption."""

    def __len__(self) -> int:
        return len(self.captions)

    def pick(self, indices: Sequence[int]) -> Drawings:
        """The drawings at `indices`, in that order."""

        def at(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[i] for i in indices)

        pictures = self.pictures[torch.as_tensor(list(indices), dtype=torch.long)]
        return Drawings(pictures, at(self.captions), at(self.sets), at(self.names))


def decode_picture(data: bytes, size: int) -> Tensor:
    """One encoded picture, on white, resized to a square.  bytes -> (3, size, size) uint8"""
    with Image.open(io.BytesIO(data)) as opened:
        flat = as_rgb(opened)
    if flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()


def _parquet_rows(file: Path) -> Iterable[tuple[bytes, dict[str, Any]]]:
    import pyarrow.parquet  # type: ignore[import-untyped]

    table = pyarrow.parquet.read_table(file)
    missing = {"image", "text"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{file} lacks the column(s) {sorted(missing)}: it has {table.column_names}. "
            "Rename its columns to `image` (struct with PNG `bytes`) and `text`."
        )
    for row in table.to_pylist():
        data = row["image"].get("bytes") if isinstance(row["image"], dict) else row["image"]
        if not isinstance(data, bytes):
            raise ValueError(
                f"{file} holds a picture without bytes: {row['image']!r}. "
                "Save the data with the pictures embedded (datasets' `Image` feature does so)."
            )
        yield data, {"set": file.stem, **row}


def _imagefolder_rows(metadata: Path) -> Iterable[tuple[bytes, dict[str, Any]]]:
    text = metadata.read_text(encoding="utf-8")
    if metadata.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
    for row in rows:
        missing = {"file_name", "text"} - set(row)
        if missing:
            raise ValueError(
                f"{metadata} has a row without {sorted(missing)}: {row!r}. Give every row a `file_name` and a `text`."
            )
        picture = metadata.parent / row["file_name"]
        if not picture.is_file():
            raise ValueError(f"{metadata} names a picture that is not there: {picture}. Add it, or drop the row.")
        yield picture.read_bytes(), {"set": metadata.parent.name, **row}


def _sources(data_dir: Path) -> list[Path]:
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"There is no data folder {str(data_dir)!r}. Pass --data_dir with a folder of parquet files "
            "(columns `image`, `text`), or of pictures with a metadata.jsonl or metadata.csv (`file_name`, "
            "`text`)."
        )
    found = sorted(data_dir.rglob("*.parquet"))
    found += sorted([*data_dir.rglob("metadata.jsonl"), *data_dir.rglob("metadata.csv")])
    if not found:
        raise ValueError(
            f"The data folder {str(data_dir)!r} holds neither parquet files nor a metadata.jsonl or "
            "metadata.csv. Point --data_dir to the folder that holds them."
        )
    return found


def load_drawings(
    data_dir: str | Path,
    size: int = 64,
    only_sets: Sequence[str] | None = None,
    leave_out_sets: Sequence[str] = (),
) -> Drawings:
    """Every captioned drawing in a folder, as `size` by `size` pictures.

    Raises `FileNotFoundError` without the folder, and `ValueError` where it holds no data, a row is unusable,
    a set that was asked for is not there, or nothing is left.
    """
    pictures, captions, sets, names = [], [], [], []
    seen = set()
    for source in _sources(Path(data_dir)):
        rows = _parquet_rows(source) if source.suffix == ".parquet" else _imagefolder_rows(source)
        for data, row in rows:
            seen.add(str(row["set"]))
            if str(row["set"]) in leave_out_sets or (only_sets is not None and row["set"] not in only_sets):
                continue
            caption = str(row["text"] or "").strip()
            if not caption:
                raise ValueError(f"{source} has a drawing without a caption: {row!r}. Give every row a `text`.")
            pictures.append(decode_picture(data, size))
            captions.append(caption)
            sets.append(str(row["set"]))
            names.append(str(row.get("codepoint") or caption).lower())
    unknown = set(only_sets or ()) - seen
    if unknown:
        raise ValueError(f"{data_dir} has no set {sorted(unknown)}. It has {sorted(seen)}: choose among these.")
    if not pictures:
        raise ValueError(
            f"No drawing is left of {data_dir}: sets {sorted(seen)} without {sorted(leave_out_sets)}. "
            "Leave out fewer sets."
        )
    return Drawings(torch.stack(pictures), tuple(captions), tuple(sets), tuple(names))


def split_by_name(drawings: Drawings, left_out: int, seed: int = 0) -> tuple[Drawings, Drawings]:
    """(drawings to train on, drawings of `left_out` names that are kept from it), no name in both.

    The split goes by name, not by row: sets draw the same name, so a split by row would show a kept name in
    training.
    """
    names = sorted(set(drawings.names))
    if not 0 <= left_out < len(names):
        raise ValueError(
            f"Cannot leave out {left_out} of {len(names)} names. Set --left_out_names between 0 and {len(names) - 1}."
        )
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = {names[i] for i in order[:left_out]}
    inside = [i for i, name in enumerate(drawings.names) if name not in kept]
    outside = [i for i, name in enumerate(drawings.names) if name in kept]
    return drawings.pick(inside), drawings.pick(outside)


def border_level(pictures: Tensor) -> Tensor:
    """Mean of the outermost pixels of each picture, 0 ... 255.  (n, 3, h, w) -> (n,)"""
    top, bottom = pictures[:, :, 0], pictures[:, :, -1]
    left, right = pictures[:, :, 1:-1, 0], pictures[:, :, 1:-1, -1]
    return torch.cat([top, bottom, left, right], dim=2).float().mean((1, 2))


def with_white_margin(drawings: Drawings, share: float = 0.06, enough: float = 250.0) -> Drawings:
    """The drawings, those that run into the border made smaller on white.

    Some sets fill the canvas to its edge. A model that learned these cuts off what it draws, and its white is
    not white.
    """
    size = drawings.pictures.shape[-1]
    margin = max(1, round(share * size))
    inner = size - 2 * margin
    pictures = drawings.pictures.clone()
    for row in (border_level(pictures) < enough).nonzero().flatten().tolist():
        small = functional.interpolate(
            pictures[row : row + 1].float(), size=(inner, inner), mode="bicubic", antialias=True
        )
        pictures[row].fill_(255)
        pictures[row, :, margin:-margin, margin:-margin] = small[0].round().clamp(0, 255).to(torch.uint8)
    return replace(drawings, pictures=pictures)


def to_unit_range(pictures: Tensor) -> Tensor:
    """uint8 in 0 ... 255 to float32 in -1 ... 1, same shape."""
    return pictures.to(torch.float32) / 127.5 - 1.0
