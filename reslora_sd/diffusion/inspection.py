"""What to know of pictures before they are trained on: shapes, captions, and which are small, alike or damaged."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from .captioned import CaptionedImages
from .contact_sheet import Row, contact_sheet
from .framing import Framing, shapes_of, too_small
from .pictures import as_rgb

_MUCH = 0.2
"""Share of a picture whose loss by the crop is worth a word."""
_ALIKE = 2.0
"""Mean difference of two pictures' thumbnails, in levels of 255, up to which they are the same."""
_SAME_SHAPE, _COLOUR = 0.03, 4
_CELL, _ACROSS, _MOST_CELLS = 128, 8, 160
_BAR, _NAMED = 40, 3


@dataclass
class Inspection:
    """What `inspect` found. Pictures are meant by their index."""

    images: CaptionedImages
    framing: Framing
    tokens: dict[int, int]
    """The longest caption of each picture in tokens, with those that begin and end every text."""
    limit: int
    """Tokens that the model takes."""
    damaged: dict[str, str]
    """What can't be read, and what is wrong with it."""
    duplicates: dict[int, int] = field(default_factory=dict)
    """The first picture that each one looks like."""
    cells: dict[int, Image.Image] = field(default_factory=dict)
    """Small pictures as they are trained on, for the contact sheet."""

    def lines(self) -> Iterator[str]:
        """A report for people."""
        images, met = self.images, sum(self.images.repeats)
        again = f", {met} in an epoch" * (met != len(images))
        yield f"{images.name}: {len(images)} picture{'s' * (len(images) != 1)}{again}"
        yield from self._shapes()
        yield self._captions()
        large = {index: share for index, share in self._lost().items() if share > _MUCH}
        worst = max(large, key=lambda index: large[index], default=None)
        yield from _some(self, "smaller than the smallest bucket, and enlarged", too_small(images, self.framing))
        if worst is not None:
            most = f"most {images.label(worst)} ({large[worst]:.0%})"
            yield f"  cropped by more than {_MUCH:.0%}: {len(large)}, {most}"
        yield from _some(self, "look like another", self.duplicates, lambda one: images.label(self.duplicates[one]))
        if self.damaged:
            said = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in list(self.damaged.items())[:_NAMED])
            yield f"  damaged, and left out of all this: {len(self.damaged)}, such as {said}"

    def sheet(self) -> Image.Image | None:
        """Pictures as they are trained on, by bucket, with their captions; `None` where there is none to show."""
        found: dict[tuple[int, int], list[int]] = {}
        for index in self.cells:
            found.setdefault(self._target(index), []).append(index)
        rows = []
        for width, height in sorted(found):
            members = found[width, height]
            for start in range(0, len(members), _ACROSS):
                part = members[start : start + _ACROSS]
                captions = [self.images.captions[index][0] for index in part]
                label = f"{width}x{height}" if start == 0 else ""
                rows.append(Row([self.cells[index] for index in part], label, captions))
        return contact_sheet(rows) if rows else None

    def _target(self, index: int) -> tuple[int, int]:
        return self.framing.of(self.images.looks[index]).target(self.images.sizes[index])

    def _shapes(self) -> Iterator[str]:
        shapes = shapes_of(self.images, self.framing)
        what = f"{len(shapes)} buckets" if self.framing.buckets else "squares"
        yield f"  trained at {self.framing.resolution} pixels, as {what}:"
        for (width, height), count in shapes.items():
            yield f"    {f'{width}x{height}':>10} {count:6} {'#' * max(1, round(_BAR * count / max(shapes.values())))}"

    def _captions(self) -> str:
        lengths, counts = list(self.tokens.values()), Counter(len(captions) for captions in self.images.captions)
        several = sum(count for captions, count in counts.items() if captions > 1)
        said = f"  captions: {min(lengths)} to {max(lengths)} tokens, {median(lengths):g} in the middle"
        said += f"; {several} pictures have several" * bool(several)
        cut = [index for index, length in self.tokens.items() if length > self.limit]
        if cut:
            first = self.images.label(cut[0])
            said += f"; {len(cut)} are longer than the model's {self.limit} and are cut, such as {first}"
        return said

    def _lost(self) -> dict[int, float]:
        """Share of each picture that its crop takes away."""
        found = {}
        for index, (look, size) in enumerate(zip(self.images.looks, self.images.sizes, strict=True)):
            frame = self.framing.of(look).frame(size, random.Random(0))
            found[index] = 1 - frame.target[0] * frame.target[1] / (frame.resized[0] * frame.resized[1])
        return found


class _Seen(NamedTuple):
    place: int
    shape: float
    """Width over height."""
    small: np.ndarray
    """(16, 16, 3)"""


def inspect(
    images: CaptionedImages, framing: Framing, tokenizer: Any, damaged: dict[str, str], sheet: bool = False
) -> Inspection:
    """Looks at every caption, and decodes every picture once.

    Args:
        damaged: as `CaptionedImages.openable` gives it.
        tokenizer: of the model.
        sheet: whether small pictures are kept for `Inspection.sheet`, evenly from all over the data.
    """
    lengths = [
        max(map(len, tokenizer(captions, truncation=False, verbose=False).input_ids)) for captions in images.captions
    ]
    count = len(images)
    found = Inspection(images, framing, dict(enumerate(lengths)), int(tokenizer.model_max_length), dict(damaged))
    shown = {place * count // min(count, _MOST_CELLS) for place in range(min(count, _MOST_CELLS))} if sheet else set()
    seen: dict[tuple[int, ...], list[_Seen]] = {}
    for index in tqdm(range(count), desc="Looking at pictures", disable=None):
        try:
            image = as_rgb(images.image(index))
        except ValueError as error:
            found.damaged[images.label(index)] = str(error.__cause__ or error)
            continue
        same = _like(image, index, seen)
        if same is not None:
            found.duplicates[index] = same
        if index in shown:
            found.cells[index] = _cell(image, framing.of(images.looks[index]).still())
    return found


def _like(image: Image.Image, place: int, seen: dict[tuple[int, ...], list[_Seen]]) -> int | None:
    """The first picture before this one that looks the same, at whatever size; it is remembered if there is none.

    Compared are thumbnails of pictures of one shape and nearly one mean colour.
    """
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float32)
    shape = image.width / image.height
    key = [int(level) // _COLOUR for level in small.mean((0, 1))]
    near = itertools.product(*(range(level - 1, level + 2) for level in key))
    for other in itertools.chain.from_iterable(seen.get(colour, []) for colour in near):
        if abs(other.shape / shape - 1) < _SAME_SHAPE and float(np.abs(other.small - small).mean()) <= _ALIKE:
            return other.place
    seen.setdefault(tuple(key), []).append(_Seen(place, shape, small))
    return None


def _cell(image: Image.Image, framing: Framing) -> Image.Image:
    pixels = framing(image, random.Random(0)).permute(1, 2, 0).numpy()  # (height, width, 3)
    framed = Image.fromarray(np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8))
    return ImageOps.pad(framed, (_CELL, _CELL), color="white")


def _some(found: Inspection, what: str, which: Collection[int], more: Any = None) -> Iterator[str]:
    """A line with the count and the first few, if there are any."""
    if not which:
        return
    names = [f"{found.images.label(index)}{f' ({more(index)})' if more else ''}" for index in list(which)[:_NAMED]]
    yield f"  {what}: {len(which)}, such as {'; '.join(names)}"
