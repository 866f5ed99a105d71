"""Drawings made in code, so that the autoencoder meets shapes, colours and black outlines that no emoji set
has.
"""

from __future__ import annotations

import colorsys
import io
import math
import random

import torch
from PIL import Image
from torch import Tensor

from .data import square

CANVAS = 64.0


def _colour(rng: random.Random) -> str:
    if rng.random() < 0.3:
        level = rng.choice((0, 60, 120, 160, 210, 255))
        return f"rgb({level},{level},{level})"
    channels = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 1.0), rng.uniform(0.35, 1.0))
    return "rgb({},{},{})".format(*(round(255 * c) for c in channels))


def _points(rng: random.Random, x: float, y: float, radius: float, count: int) -> list[tuple[float, float]]:
    start = rng.uniform(0, 2 * math.pi)
    points = []
    for k in range(count):
        angle = start + 2 * math.pi * k / count
        reach = radius * rng.uniform(0.45, 1.15)
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points


def _smooth_path(points: list[tuple[float, float]], closed: bool) -> str:
    """A path of quadratic curves through the middles between points."""
    middles = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in zip(points, points[1:] + points[:1], strict=True)]
    path = "M{:.1f} {:.1f}".format(*middles[0])
    for k in range(1, len(points) + (1 if closed else -1)):
        corner, middle = points[k % len(points)], middles[k % len(points)]
        path += " Q{:.1f} {:.1f} {:.1f} {:.1f}".format(*corner, *middle)
    return path + (" Z" if closed else "")


def _shape(rng: random.Random, radius: float) -> str:
    """An SVG element without its paint, at a random place."""
    x, y = rng.uniform(8, CANVAS - 8), rng.uniform(8, CANVAS - 8)
    kind = rng.randrange(6)
    if kind == 0:
        return f'ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{radius:.1f}" ry="{radius * rng.uniform(0.4, 1.2):.1f}"'
    if kind == 1:
        width, height = radius * rng.uniform(0.5, 2.0), radius * rng.uniform(0.5, 2.0)
        place = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}"'
        turn = rng.choice((0.0, 0.0, rng.uniform(0, 90)))
        corner = rng.choice((0.0, radius / 5))
        return f'rect {place} rx="{corner:.1f}" transform="rotate({turn:.0f} {x:.1f} {y:.1f})"'
    points = _points(rng, x, y, radius, rng.randint(3, 8))
    if kind == 2:
        return 'polygon points="{}"'.format(" ".join(f"{px:.1f},{py:.1f}" for px, py in points))
    if kind == 3:
        return f'circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return f'path d="{_smooth_path(points, closed=kind == 4)}"'


def _paint(rng: random.Random, line: str, width: float, is_open: bool) -> str:
    fill = "none" if is_open or rng.random() < 0.2 else _colour(rng)
    stroke = line if fill == "none" or rng.random() < 0.75 else "none"
    style = f'fill="{fill}" stroke="{stroke}" stroke-width="{width:.2f}"'
    return f'{style} stroke-linejoin="round" stroke-linecap="round"'


def random_svg(rng: random.Random) -> str:
    """An SVG drawing of a few shapes: two in three have thin outlines of one colour, most often black."""
    line = "black" if rng.random() < 0.8 else _colour(rng)
    width = rng.uniform(0.9, 2.6)
    parts = []
    for k in range(rng.randint(2, 9)):
        radius = rng.uniform(8, 28) if k < 2 else rng.uniform(1, 12)
        shape = _shape(rng, radius)
        is_open = shape.startswith("path") and not shape.endswith('Z"')
        parts.append(f"<{shape} {_paint(rng, line, width, is_open)}/>")
    paper = "white" if rng.random() < 0.92 else _colour(rng)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CANVAS:.0f} {CANVAS:.0f}">'
    return f'{head}<rect width="{CANVAS:.0f}" height="{CANVAS:.0f}" fill="{paper}"/>{"".join(parts)}</svg>'


def synthetic_drawings(count: int, size: int, seed: int = 0) -> Tensor:
    """`count` random drawings.  -> (count, 3, size, size) uint8

    Raises `ImportError` without `resvg-py`, which draws them.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            "Drawings made in code need the package `resvg-py`, which is not installed. "
            "Install it (`pip install resvg-py`), or pass --synthetic_drawings 0."
        ) from error
    rng = random.Random(seed)
    drawn = (resvg_py.svg_to_bytes(svg_string=random_svg(rng), width=size, height=size) for _ in range(count))
    pictures = [square(Image.open(io.BytesIO(data)), size) for data in drawn]
    return torch.stack(pictures) if pictures else torch.empty(0, 3, size, size, dtype=torch.uint8)
