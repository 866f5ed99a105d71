"""The drawings that the base model knows, in other colours, with captions that name these.

A base that draws each name in one way only takes a LoRA's style for another shape. One that has drawn every name in
many colours, each named in the caption, knows what is shape and what is colour; then a style is a matter of colour, and
"a red fish" is a fish. Colours near the embedded styles' are left out, so that these stay new to the base.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .data import Drawings
from .make_styles import FILTERS
from .restyle import Colour, Restyler, Style

COLOURS: dict[str, Colour] = {
    "black": (18, 18, 22),
    "white": (255, 255, 255),
    "grey": (136, 138, 142),
    "silver": (200, 204, 210),
    "red": (222, 38, 44),
    "maroon": (112, 16, 32),
    "coral": (255, 122, 100),
    "orange": (250, 140, 24),
    "brown": (122, 74, 36),
    "beige": (226, 204, 166),
    "cream": (255, 244, 214),
    "yellow": (255, 216, 40),
    "olive": (124, 126, 36),
    "lime": (160, 220, 50),
    "green": (40, 156, 66),
    "mint": (166, 232, 196),
    "teal": (16, 124, 124),
    "turquoise": (54, 206, 200),
    "sky": (140, 200, 248),
    "blue": (38, 96, 226),
    "navy": (18, 34, 92),
    "indigo": (76, 50, 160),
    "purple": (140, 62, 190),
    "violet": (190, 140, 240),
    "magenta": (222, 30, 150),
    "pink": (255, 164, 196),
}
"""Colours by the names that captions use."""
_KINDS = {"one colour": 0.35, "three colours": 0.3, "paper": 0.15, "lines": 0.2}
_PALE = 680
"""Sum of the channels from which a colour can't be seen on white paper."""
_NEAR = 60.0
"""A style whose paper and ramp differ from an embedded one's by less, in the root of the mean square, is left out."""


@dataclass(frozen=True)
class Look:
    """One recolouring: how the name becomes a caption, and what is drawn."""

    caption: str
    """With `{}` for the name."""
    style: Style | None = None
    """For a ramp of colours."""
    paper: Colour | None = None
    """For other paper, and for lines."""
    line: Colour | None = None
    filling: Colour | None = None

    def draw(self, drawing: Restyler) -> Image.Image:
        """The drawing in these colours."""
        if self.style is not None:
            return drawing.ramp(self.style)
        assert self.paper is not None
        if self.line is None:
            return drawing.on_paper(self.paper)
        return drawing.lines(self.line, self.paper, self.filling)


def random_look(chance: random.Random) -> Look:
    """Drawn anew until it is far from every embedded style."""
    while True:
        look = _draw_look(chance)
        if look.style is None or all(_distance(look.style, style) >= _NEAR for style in FILTERS.values()):
            return look


def _draw_look(chance: random.Random) -> Look:
    kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
    names = chance.sample(sorted(COLOURS), 4)
    if kind == "one colour":
        colour, paper = names[:2]
        if sum(COLOURS[colour]) < _PALE and chance.random() < 0.6:
            paper = "white"
        dark, light = _mixed(COLOURS[colour], (0, 0, 0), 0.6), _mixed(COLOURS[colour], (255, 255, 255), 0.7)
        style = Style(COLOURS[paper], ((0, dark), (0.5, COLOURS[colour]), (1, light)))
        return Look(f"{colour} {{}}" if paper == "white" else f"{colour} {{}} on {paper}", style)
    if kind == "three colours":
        three = sorted(names[:3], key=lambda name: sum(COLOURS[name]))
        if chance.random() < 0.15:
            three.reverse()
        ramp = tuple((level, COLOURS[name]) for level, name in zip((0.1, 0.55, 1.0), three, strict=True))
        dark_name, middle, light_name = three
        return Look(f"{{}} in {dark_name}, {middle} and {light_name} on {names[3]}", Style(COLOURS[names[3]], ramp))
    if kind == "paper":
        paper = names[0] if names[0] != "white" else names[1]
        return Look(f"{{}} on {paper}", paper=COLOURS[paper])
    line, paper = names[:2]
    caption = f"{{}} drawn in {line} on {paper}"
    if chance.random() < 0.5:
        return Look(caption, paper=COLOURS[paper], line=COLOURS[line])
    caption = f"{caption}, filled with {names[2]}"
    return Look(caption, paper=COLOURS[paper], line=COLOURS[line], filling=COLOURS[names[2]])


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _distance(one: Style, other: Style) -> float:
    """Root of the mean squared difference of paper and ramp, each with half of the weight."""
    levels = np.linspace(0, 1, 5)
    paper = np.square(np.subtract(one.paper, other.paper, dtype=np.float64)).mean()
    ramp = np.square(one.at(levels) - other.at(levels)).mean()
    return float(np.sqrt((paper + ramp) / 2))


def _looks(row: int, count: int, seed: int) -> list[Look]:
    chance = random.Random(f"{seed} {row}")
    return [random_look(chance) for _ in range(count)]


def recoloured_captions(drawings: Drawings, rows: Sequence[int], count: int, seed: int) -> list[list[str]]:
    """The captions of `recoloured`.  -> (rows, count)"""
    return [[look.caption.format(drawings.captions[row]) for look in _looks(row, count, seed)] for row in rows]


def recoloured(drawings: Drawings, rows: Sequence[int], count: int, seed: int, processes: int = 1) -> Tensor:
    """Each of the drawings at `rows` in `count` other colours; the same for any number of processes.

    -> (rows, count, 3, size, size) uint8

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"A drawing is recoloured at least once: got {count}. Set a count of 1 or more.")
    entries = [(row, drawings.pictures[row].permute(1, 2, 0).numpy()) for row in rows]
    work = partial(_recolour_one, count, seed)
    if processes == 1:
        made = [work(entry) for entry in entries]
    else:  # new processes: a copy of one with threads and an accelerator may hang
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            made = list(pool.map(work, entries, chunksize=8))
    return torch.from_numpy(np.stack(made)).permute(0, 1, 4, 2, 3).contiguous()


def _recolour_one(count: int, seed: int, entry: tuple[int, np.ndarray]) -> np.ndarray:
    row, picture = entry
    drawing = Restyler(Image.fromarray(picture))
    return np.stack([np.asarray(look.draw(drawing)) for look in _looks(row, count, seed)])
