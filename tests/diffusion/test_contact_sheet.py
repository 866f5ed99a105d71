"""The one picture of many: where pictures and labels stand, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageFont

from reslora_sd.diffusion.contact_sheet import GAP, Row, contact_sheet, fitted, scaled
from tests.scripts import ROOT


def picture(colour: str, size: tuple[int, int] = (16, 12)) -> Image.Image:
    made = Image.new("RGB", size, colour)
    made.putpixel((3, 2), (1, 2, 3))
    return made


def where(sheet: Image.Image, tile: Image.Image) -> tuple[int, int]:
    """The corner at which the sheet shows the tile to the last pixel."""
    for top in range(sheet.height - tile.height + 1):
        for left in range(sheet.width - tile.width + 1):
            part = sheet.crop((left, top, left + tile.width, top + tile.height))
            if part.getpixel((0, 0)) == tile.getpixel((0, 0)) and not ImageChops.difference(part, tile).getbbox():
                return left, top
    raise AssertionError("The sheet doesn't show the picture.")


def test_every_picture_stands_in_its_row_and_column() -> None:
    pictures = [[picture("red"), picture("green")], [picture("blue"), picture("yellow")]]
    sheet = contact_sheet([Row(pictures[0], "apple"), Row(pictures[1], "sky")], ["0", "20"], scale=2)
    corners = [[where(sheet, one.resize((32, 24), Image.Resampling.NEAREST)) for one in line] for line in pictures]
    (left, top), (right, _) = corners[0]
    assert corners == [[(left, top), (right, top)], [(left, top + 24 + GAP), (right, top + 24 + GAP)]]
    assert right - left == 32 + GAP
    assert sheet.size == (right + 32 + GAP, top + 2 * (24 + GAP))
    above, beside = sheet.crop((left, 0, sheet.width, top)), sheet.crop((0, top, left, sheet.height))
    assert ImageChops.invert(above).getbbox() and ImageChops.invert(beside).getbbox()  # both have their labels


def test_captions_stand_below_and_pictures_without_labels_begin_at_the_gap() -> None:
    red, green = picture("red", (64, 64)), picture("green", (64, 64))
    sheet = contact_sheet([Row([red], captions=["apple"]), Row([green], captions=["book"])], paper="#e1e1e1")
    assert where(sheet, red) == (GAP, GAP)
    left, top = where(sheet, green)
    assert left == GAP and sheet.getpixel((0, 0)) == (225, 225, 225)
    between = sheet.crop((0, GAP + 64, sheet.width, top)).convert("L")
    assert between.getextrema() == (0, 225)  # black letters on grey


def test_a_shorter_last_row_leaves_paper() -> None:
    sheet = contact_sheet([Row([picture("red"), picture("green")]), Row([picture("blue")])])
    left, top = where(sheet, picture("green"))
    assert sheet.crop((left, top + 12 + GAP, left + 16, sheet.height)).getcolors() == [(16 * 16, (255, 255, 255))]


def test_whole_factors_keep_pixels_and_others_are_smooth() -> None:
    one = picture("red")
    assert not ImageChops.difference(scaled(one, 32), one.resize((32, 24), Image.Resampling.NEAREST)).getbbox()
    assert scaled(one, 24).size == (24, 18)
    assert not ImageChops.difference(scaled(one, 24), one.resize((24, 18), Image.Resampling.LANCZOS)).getbbox()


def test_long_labels_are_cut_to_their_width() -> None:
    font = ImageFont.load_default(12)
    assert fitted("cat\n face", 200, font) == "cat face"
    text = "a dog that is out on a walk"
    cut = fitted(text, 60, font)
    kept = cut.removesuffix(" ...")
    assert cut != kept and text.startswith(kept)
    assert font.getlength(cut) <= 60 < font.getlength(text[: len(kept) + 1] + " ...")


@pytest.mark.parametrize("heavy", ["torch", "diffusers", "transformers"])
def test_it_needs_no(heavy: str) -> None:
    code = f"import sys, reslora_sd.diffusion.contact_sheet; assert {heavy!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
