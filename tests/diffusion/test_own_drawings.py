"""The two sets of drawings: always the same, and folders that training takes."""

from __future__ import annotations

import pytest

from reslora_sd.diffusion.data import load_images
from reslora_sd.diffusion.own_drawings import drawings, write_drawings
from reslora_sd.diffusion.settings import DataSettings


@pytest.mark.parametrize(("kind", "sizes"), [("flat", 1), ("sketch", 4)])
def test_a_set_has_three_subjects_in_four_colours_each_drawn_as_before(kind, sizes):
    first, again = drawings(kind), drawings(kind)
    assert len({caption for caption, _ in first}) == 12
    assert [(caption, one.tobytes()) for caption, one in first] == [(caption, one.tobytes()) for caption, one in again]
    assert len({one.size for _, one in first}) == sizes
    words = [caption.split(",")[0].split() for caption, _ in first]
    assert (len({one[-1] for one in words}), len({one[-2] for one in words})) == (3, 4)


@pytest.mark.parametrize("kind", ["flat", "sketch"])
def test_a_set_is_a_folder_that_training_takes(kind, tmp_path):
    write_drawings(kind, tmp_path)
    images = load_images(DataSettings(train_data_dir=str(tmp_path)))
    assert sorted(caption for [caption] in images.captions) == sorted(caption for caption, _ in drawings(kind))
