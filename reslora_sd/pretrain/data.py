"""Captioned drawings for pretraining: read a folder, split it by name.

The layouts are those of training (`reslora_sd.diffusion.folders.open_folder`) without tar files, with two more columns
where the data has them: `set`, the design set (else the name of the parquet file or folder), and `codepoint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..diffusion.data import captioned_images
from ..diffusion.folders import open_folder, parquet_files
from ..diffusion.pictures import as_rgb
from ..diffusion.shards import ShardRows


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


def square(image: Image.Image, size: int) -> Tensor:
    """A picture on white, resized to a square.  -> (3, size, size) uint8"""
    flat = as_rgb(image)
    if flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()


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
    folder = Path(data_dir)
    pictures, captions, sets, names = [], [], [], []
    seen = set()
    for source in parquet_files(folder) or [folder]:
        rows = _rows(source)
        groups = list(rows["set"]) if "set" in rows.column_names else [source.stem] * len(rows)
        points = list(rows["codepoint"]) if "codepoint" in rows.column_names else [None] * len(rows)
        seen.update(groups)
        wanted = [
            row
            for row, group in enumerate(groups)
            if group not in leave_out_sets and (only_sets is None or group in only_sets)
        ]
        if not wanted:
            continue
        images = captioned_images(rows.select(wanted), str(source))
        for number, row in enumerate(wanted):
            pictures.append(square(images.image(number), size))
            captions.append(images.captions[number][0].strip())
            sets.append(groups[row])
            names.append(str(points[row] or captions[-1]).lower())
    unknown = set(only_sets or ()) - seen
    if unknown:
        raise ValueError(f"{data_dir} has no set {sorted(unknown)}. It has {sorted(seen)}: choose among these.")
    if not pictures:
        raise ValueError(
            f"No drawing is left of {data_dir}: sets {sorted(seen)} without {sorted(leave_out_sets)}. "
            "Leave out fewer sets."
        )
    return Drawings(torch.stack(pictures), tuple(captions), tuple(sets), tuple(names))


def _rows(source: Path) -> Any:
    rows = open_folder(source)
    if isinstance(rows, ShardRows):
        raise ValueError(
            f"The pictures of {source} lie in tar files, and drawings are read from folders and tables alone. Unpack "
            "the tar files, and give the folder."
        )
    return rows


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
