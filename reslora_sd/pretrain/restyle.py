"""Filters that give a drawing on white other colours and keep its shapes: for the embedded styles (`make_styles`) and
for the drawings in other colours that the base model learns (`recolour`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 ... 255."""
_ENLARGED = 4
"""A drawing is filtered at so many times its size, so that edges stay smooth."""


@dataclass(frozen=True)
class Style:
    """Colours of a style."""

    paper: Colour
    ramp: tuple[tuple[float, Colour], ...]
    """Colours by lightness, from 0 to 1; mixed between these."""

    def at(self, lightness: np.ndarray) -> np.ndarray:
        """The ramp's colours.  (...) in 0 ... 1 -> (..., 3)"""
        levels = [level for level, _ in self.ramp]
        channels = [np.interp(lightness, levels, [colour[k] for _, colour in self.ramp]) for k in range(3)]
        return np.stack(channels, axis=-1)


class Restyler:
    """One drawing on white, whose shape and lightness are found once, for any number of styles.

    Every method gives an RGB picture of the drawing's size.
    """

    def __init__(self, drawing: Image.Image) -> None:
        self.size = drawing.size
        self._large = drawing.convert("RGB").resize(
            [_ENLARGED * side for side in drawing.size], Image.Resampling.BICUBIC
        )

    def ramp(self, style: Style) -> Image.Image:
        """Lightness becomes colour inside the shape, with paper around it."""
        inside = Image.fromarray(style.at(self._lightness).round().astype(np.uint8))
        return self._small(Image.composite(inside, self._paper(style.paper), self._soft_shape))

    def on_paper(self, paper: Colour) -> Image.Image:
        """The drawing as it is, on paper of another colour."""
        return self._small(Image.composite(self._large, self._paper(paper), self._soft_shape))

    def lines(self, line: Colour, paper: Colour, filling: Colour | None = None) -> Image.Image:
        """The edges between colours as lines, on paper; the shape can be filled with one colour."""
        ground = self._paper(paper)
        if filling is not None:
            ground = Image.composite(self._paper(filling), ground, self._soft_shape)
        return self._small(Image.composite(self._paper(line), ground, self._edges))

    def _paper(self, colour: Colour) -> Image.Image:
        return Image.new("RGB", self._large.size, colour)

    def _small(self, picture: Image.Image) -> Image.Image:
        return picture.resize(self.size, Image.Resampling.LANCZOS)

    @cached_property
    def _lightness(self) -> np.ndarray:
        return np.asarray(self._large.convert("L").filter(ImageFilter.GaussianBlur(2)), dtype=np.float64) / 255

    @cached_property
    def _soft_shape(self) -> Image.Image:
        """White where the drawing is, black where the white paper around it is; what it encloses is drawing."""
        mark = (255, 0, 255)
        framed = Image.new("RGB", (self._large.width + 2, self._large.height + 2), "white")
        framed.paste(self._large, (1, 1))
        ImageDraw.floodfill(framed, (0, 0), mark, thresh=20)
        outside = (np.asarray(framed)[1:-1, 1:-1] == mark).all(axis=-1)
        return Image.fromarray(np.where(outside, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))

    @cached_property
    def _edges(self) -> Image.Image:
        """White where the colour changes."""
        values = np.asarray(self._large.filter(ImageFilter.GaussianBlur(2)), dtype=np.float64)
        across = np.abs(np.diff(values, axis=1, prepend=values[:, :1])).max(-1)
        down = np.abs(np.diff(values, axis=0, prepend=values[:1])).max(-1)
        strength = np.clip((np.maximum(across, down) - 6) / 14, 0, 1)
        edges = Image.fromarray((255 * strength).astype(np.uint8))
        return edges.filter(ImageFilter.MaxFilter(7)).filter(ImageFilter.GaussianBlur(1))


def restyle(drawing: Image.Image, style: Style) -> Image.Image:
    """A drawing on white in the colours of a style, of the same size."""
    return Restyler(drawing).ramp(style)
