"""One picture of many, with labels: steps and methods beside each other, or samples with their captions. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP = 4
"""Pixels between pictures."""
_TEXT = 12
_LINE = 16
"""Pixels of height for one line of text."""


@dataclass(frozen=True)
class Row:
    """Pictures beside each other, all of one size."""

    pictures: Sequence[Image.Image]
    label: str = ""
    """What stands to their left."""
    captions: Sequence[str] = ()
    """What stands below each; none or one for each picture."""


def contact_sheet(
    rows: Sequence[Row], columns: Sequence[str] = (), scale: int = 1, paper: str = "white"
) -> Image.Image:
    """One picture of labelled rows and columns, as the paper's Fig. 3.

    Args:
        columns: what stands above each column.
        scale: whole factor by which small pictures are enlarged.
        paper: colour between the pictures.
    """
    font = ImageFont.load_default(_TEXT)
    width, height = (side * scale for side in rows[0].pictures[0].size)
    longest = max(int(font.getlength(row.label)) for row in rows)
    left = longest + 3 * GAP if longest else GAP
    top = _LINE + GAP if columns else GAP
    below = _LINE if any(row.captions for row in rows) else 0
    across, down = width + GAP, height + below + GAP
    count = max(len(columns), *(len(row.pictures) for row in rows))
    sheet = Image.new("RGB", (left + count * across, top + len(rows) * down), paper)
    pen = ImageDraw.Draw(sheet)
    for place, label in enumerate(columns):
        pen.text((left + place * across + 2, 3), fitted(label, width, font), "black", font)
    for line, row in enumerate(rows):
        y = top + line * down
        pen.text((GAP, y + height // 2 - _TEXT // 2), row.label, "black", font)
        for place, picture in enumerate(row.pictures):
            sheet.paste(scaled(picture, width), (left + place * across, y))
        for place, caption in enumerate(row.captions):
            pen.text((left + place * across, y + height), fitted(caption, width, font), "black", font)
    return sheet


def scaled(picture: Image.Image, width: int) -> Image.Image:
    """The picture at another width, its shape kept; enlarged by a whole factor, it keeps its pixels."""
    how = Image.Resampling.LANCZOS if width % picture.width else Image.Resampling.NEAREST
    return picture.resize((width, max(1, round(width * picture.height / picture.width))), how)


def fitted(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in one line, cut with dots where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."
