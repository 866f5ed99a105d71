"""Drawings in other colours: what the captions say is what is drawn, and the embedded styles stay new."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslora_sd.pretrain import data as pretrain_data
from reslora_sd.pretrain import recolour
from reslora_sd.pretrain.make_styles import FILTERS
from reslora_sd.pretrain.restyle import Restyler, Style
from tests.pretrain.test_make_styles import near, ring


def test_paper_lines_and_fillings_have_their_colours() -> None:
    drawing = Restyler(ring())
    paper = drawing.on_paper((0, 80, 0))
    assert near(paper, (2, 2), (0, 80, 0)) and near(paper, (32, 12), (0, 0, 0)) and near(paper, (32, 32), (255,) * 3)
    lines = drawing.lines((250, 0, 0), (0, 0, 90))
    assert near(lines, (2, 2), (0, 0, 90)) and near(lines, (32, 32), (0, 0, 90))
    red, green, blue = np.asarray(lines)[8, 32]
    assert red > 150 and green == 0 and blue < 60, "the ring's edge is a line"
    assert near(drawing.lines((250, 0, 0), (0, 0, 90), (9, 99, 9)), (32, 32), (9, 99, 9))


@pytest.mark.slow
def test_every_number_of_processes_gives_the_same_drawings(data: Path) -> None:
    drawings = pretrain_data.load_drawings(data, 32, only_sets=["plain"])
    alone = recolour.recoloured(drawings, [3, 0], 3, seed=1)
    assert alone.shape == (2, 3, 3, 32, 32) and alone.dtype == torch.uint8
    assert torch.equal(alone, recolour.recoloured(drawings, [3, 0], 3, seed=1, processes=2))
    captions = recolour.recoloured_captions(drawings, [3, 0], 3, seed=1)
    assert all(drawings.captions[row] in caption for row, of in zip((3, 0), captions, strict=True) for caption in of)
    with pytest.raises(ValueError, match="at least once: got 0"):
        recolour.recoloured(drawings, [0], 0, seed=1)


def test_captions_name_the_colours_that_are_drawn() -> None:
    chance = random.Random(0)
    looks = [recolour.random_look(chance) for _ in range(300)]
    assert {"on" in look.caption.split() for look in looks} == {True, False}
    for look in looks:
        words = look.caption.replace(",", "").format("ring").split()
        paper = look.paper if look.style is None else look.style.paper
        assert paper is not None
        if "on" in words:
            assert paper == recolour.COLOURS[words[words.index("on") + 1]]
        else:
            assert paper == recolour.COLOURS["white"]
        assert near(look.draw(Restyler(Image.new("RGB", (16, 16), "white"))), (1, 1), paper)


def test_colours_near_an_embedded_style_are_never_drawn() -> None:
    gold = FILTERS["gold"]
    close = Style((20, 20, 20), gold.ramp)
    assert 0 < recolour._distance(gold, close) < recolour._NEAR
    chance = random.Random(3)
    for _ in range(2000):
        style = recolour.random_look(chance).style
        assert style is None or min(recolour._distance(style, other) for other in FILTERS.values()) >= recolour._NEAR
