"""What the autoencoder learns from: augmented drawings, and drawings made in code."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest
import torch

from reslora_sd.pretrain import vae as pretrain_vae


def test_augmented_drawings_keep_shape_and_range_and_follow_their_seed() -> None:
    pictures = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, again, other = (pretrain_vae.augment(pictures, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == pictures.shape
    assert first.min() >= -1.0001 and first.max() <= 1.0001
    assert torch.equal(first, again) and not torch.equal(first, other)
    moved = (first != pictures).flatten(1).any(1)
    assert 30 <= moved.sum() < 40  # most are changed, a few come as they are


def test_synthetic_drawings_follow_their_seed() -> None:
    pytest.importorskip("resvg_py")
    from reslora_sd.pretrain.synthetic import synthetic_drawings

    first, again, other = (synthetic_drawings(3, 32, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 3, 32, 32) and first.float().flatten(1).std(1).min() > 10  # none is blank


def test_a_synthetic_drawing_is_two_to_nine_painted_shapes_on_paper() -> None:
    from reslora_sd.pretrain.synthetic import random_svg

    for seed in range(50):
        paper, *shapes = ElementTree.fromstring(random_svg(random.Random(seed)))
        assert paper.get("width") == paper.get("height") == "64"
        assert 2 <= len(shapes) <= 9
        assert all(shape.get("fill") != "none" or shape.get("stroke") != "none" for shape in shapes)
