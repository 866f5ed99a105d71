"""Two sets of twelve captioned drawings, made by code: what somebody's own pictures might be. No torch.

* `flat`: fish, house and mug in red, blue, green and yellow; flat shapes on light paper, PNGs of 256 x 256.
* `sketch`: cat, boat and tree in orange, purple, pink and teal; wobbling outlines, shaded, on paper with a slope of
  light, JPEGs of odd sizes.

The embedded model's names hold none of these things in most of these colours.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .pictures import CAPTIONS_FILE

Point = tuple[float, float]
Colour = tuple[int, int, int]
Pen = Callable[[Sequence[Point], Colour], None]
"""Fills a polygon whose corners are in hundredths of the picture's side."""

FLAT_COLOURS: dict[str, Colour] = {
    "red": (206, 44, 44),
    "blue": (45, 85, 200),
    "green": (46, 150, 70),
    "yellow": (235, 195, 45),
}
SKETCH_COLOURS: dict[str, Colour] = {
    "orange": (232, 128, 40),
    "purple": (126, 62, 168),
    "pink": (236, 130, 170),
    "teal": (30, 150, 150),
}
_FLAT_PAPER: Colour = (244, 240, 230)
_INK: Colour = (48, 42, 40)
_SIZES = ((300, 256), (256, 333), (417, 389), (280, 280))
"""Of the sketches, in turn."""


def ellipse(x: float, y: float, across: float, down: float, start: float = 0, stop: float = 360) -> list[Point]:
    """Corners of an ellipse, or of the part between two angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (stop - start) * part / 40) for part in range(41)]
    return [(x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles]


def darker(colour: Colour, by: float) -> Colour:
    """The colour mixed with black by a share; with white for a share below 0."""
    end = 0 if by > 0 else 255
    red, green, blue = (round(part + (end - part) * abs(by)) for part in colour)
    return red, green, blue


def draw_fish(pen: Pen, colour: Colour) -> None:
    """Looks to the left."""
    pen([(66, 50), (90, 30), (84, 50), (90, 70)], darker(colour, 0.25))
    pen([(38, 36), (50, 20), (62, 36)], darker(colour, 0.25))
    pen(ellipse(44, 50, 32, 20), colour)
    pen(ellipse(26, 45, 5, 5), (255, 255, 255))
    pen(ellipse(25, 45, 2.5, 2.5), _INK)


def draw_house(pen: Pen, colour: Colour) -> None:
    """A roof, a door and two windows."""
    pen([(24, 48), (76, 48), (76, 86), (24, 86)], colour)
    pen([(16, 50), (50, 16), (84, 50)], darker(colour, 0.35))
    pen([(44, 64), (56, 64), (56, 86), (44, 86)], darker(colour, 0.55))
    for left in (29, 61):
        pen([(left, 56), (left + 10, 56), (left + 10, 66), (left, 66)], (255, 250, 220))


def draw_mug(pen: Pen, colour: Colour) -> None:
    """Its handle is to the right."""
    pen([*ellipse(66, 52, 20, 18, -90, 90), *ellipse(66, 52, 12, 10, 90, -90)], colour)
    pen([(22, 28), (66, 28), (63, 82), (25, 82)], colour)
    pen(ellipse(44, 28, 22, 6), darker(colour, 0.4))
    pen(ellipse(44, 29, 17, 4), (96, 60, 40))


def draw_cat(pen: Pen, colour: Colour) -> None:
    """Sits, seen from the front."""
    pen([*ellipse(76, 66, 16, 20, 100, -60), *ellipse(76, 66, 9, 13, -60, 100)], darker(colour, 0.2))
    pen(ellipse(50, 72, 24, 24), colour)
    for left in (30, 56):
        pen([(left, 34), (left + 2, 8), (left + 14, 24)], darker(colour, 0.15))
    pen(ellipse(50, 36, 21, 18), darker(colour, -0.12))
    for x in (42, 58):
        pen(ellipse(x, 34, 3, 4), _INK)
    pen([(47, 42), (53, 42), (50, 46)], (225, 120, 130))


def draw_boat(pen: Pen, colour: Colour) -> None:
    """A sail in the colour, and a hull in a darker one."""
    pen([(48, 12), (51, 12), (51, 66), (48, 66)], _INK)
    pen([(53, 16), (84, 62), (53, 62)], darker(colour, -0.2))
    pen([(46, 22), (46, 62), (22, 62)], colour)
    pen([(12, 66), (88, 66), (74, 86), (26, 86)], darker(colour, 0.2))


def draw_tree(pen: Pen, colour: Colour) -> None:
    """Three balls of leaves on a brown trunk."""
    pen([(45, 56), (55, 56), (58, 92), (42, 92)], (110, 74, 48))
    pen(ellipse(34, 46, 20, 18), darker(colour, 0.12))
    pen(ellipse(66, 46, 20, 18), darker(colour, 0.12))
    pen(ellipse(50, 30, 24, 20), colour)


def flat_picture(subject: Callable[[Pen, Colour], None], colour: Colour) -> Image.Image:
    """One flat drawing, drawn at twice its size so that its edges are smooth."""
    side = 512
    picture = Image.new("RGB", (side, side), _FLAT_PAPER)
    brush = ImageDraw.Draw(picture)

    def pen(corners: Sequence[Point], fill: Colour) -> None:
        brush.polygon([(x * side / 100, y * side / 100) for x, y in corners], fill)

    subject(pen, colour)
    return picture.resize((side // 2, side // 2), Image.Resampling.LANCZOS)


def sketch_picture(
    subject: Callable[[Pen, Colour], None], colour: Colour, size: tuple[int, int], seed: int
) -> Image.Image:
    """One drawing by a shaking hand: moved, turned and resized a little, with dark outlines and light from above."""
    rng = random.Random(seed)
    width, height = size
    side = 0.92 * min(size) * rng.uniform(0.85, 1.0)
    turn, moved = math.radians(rng.uniform(-8, 8)), (rng.uniform(-4, 4), rng.uniform(-3, 3))
    picture = Image.fromarray(_paper(size, seed))
    brush = ImageDraw.Draw(picture)

    def place(x: float, y: float) -> Point:
        x, y = x - 50 + rng.uniform(-0.7, 0.7), y - 50 + rng.uniform(-0.7, 0.7)
        x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        return width / 2 + (x + moved[0]) * side / 100, height / 2 + (y + moved[1]) * side / 100

    def pen(corners: Sequence[Point], fill: Colour) -> None:
        placed = [place(x, y) for x, y in corners]
        brush.polygon(placed, fill)
        brush.line([*placed, placed[0]], _INK, 4)

    subject(pen, colour)
    return Image.fromarray(_lit(np.asarray(picture), seed))


def _paper(size: tuple[int, int], seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Light paper that darkens to one side.  -> (height, width, 3)"""
    slope = np.linspace(0, 18, size[0])[None, :, None] * np.ones((size[1], 1, 3))
    return (np.array([250, 248, 240]) - (slope if seed % 2 else slope[:, ::-1])).astype(np.uint8)


def _lit(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Lighter above than below, and grainy, as a photo of a drawing."""
    light = np.linspace(1.04, 0.92, pixels.shape[0])[:, None, None]
    grain = np.random.default_rng(seed).normal(0, 3, pixels.shape)
    return (pixels * light + grain).clip(0, 255).astype(np.uint8)


def drawings(kind: str) -> list[tuple[str, Image.Image]]:
    """Captions and pictures of a set, `flat` or `sketch`; always the same."""
    if kind == "flat":
        subjects = {"fish": draw_fish, "house": draw_house, "mug": draw_mug}
        return [
            (f"a {name} {subject}", flat_picture(draw, colour))
            for subject, draw in subjects.items()
            for name, colour in FLAT_COLOURS.items()
        ]
    others = {"cat": draw_cat, "boat": draw_boat, "tree": draw_tree}
    pairs = [(subject, name) for subject in others for name in SKETCH_COLOURS]
    return [
        (
            f"{name} {subject}, my drawing",
            sketch_picture(others[subject], SKETCH_COLOURS[name], _SIZES[number % 4], number),
        )
        for number, (subject, name) in enumerate(pairs)
    ]


def write_drawings(kind: str, folder: Path) -> None:
    """Writes a set as a folder for `--train_data_dir`: flat ones with metadata.jsonl, sketches with text files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for caption, picture in drawings(kind):
        name = caption.split(",")[0].replace(" ", "_")
        if kind == "flat":
            picture.save(folder / f"{name}.png")
            rows.append(json.dumps({"file_name": f"{name}.png", "text": caption}))
        else:
            picture.save(folder / f"{name}.jpg", quality=88)
            (folder / f"{name}.txt").write_text(f"{caption}\n", encoding="utf-8")
    if rows:
        (folder / CAPTIONS_FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")
