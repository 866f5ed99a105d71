"""The crop comes before the enlargement, and changes nothing but what it costs."""

import random

import numpy as np
import pytest
from PIL import Image

from reslora_sd.diffusion.data import load_images
from reslora_sd.diffusion.framing import Framing
from reslora_sd.diffusion.settings import DataSettings


def noise(width, height):
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def resized_then_cropped(image, side, seed, interpolation):
    """As torchvision's Resize and RandomCrop do it, which diffusers' script uses."""
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    rng = random.Random(seed)
    left, top = (rng.randint(0, whole - side) for whole in size)
    whole = image.resize(size, Image.Resampling[interpolation.upper()])
    return np.asarray(whole.crop((left, top, left + side, top + side)), dtype=np.float32)


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_pictures_are_those_of_resizing_first(interpolation):
    for number, (width, height) in enumerate([(40, 20), (33, 71), (300, 117), (64, 200), (7, 50), (90, 64), (64, 64)]):
        image, framing = noise(width, height), Framing(64, interpolation=interpolation)
        found = (framing(image, random.Random(number)).permute(1, 2, 0).numpy() + 1) * 127.5
        wanted = resized_then_cropped(image, 64, number, interpolation)
        assert np.abs(found - wanted).max() < 1.01, (width, height)  # one level of 255: rounding


def test_a_long_thin_picture_needs_no_more_memory_than_others():
    image = noise(4000, 1)
    whole = Image.Image.resize
    sizes = []

    def resize(self, size, *args, **kwargs):
        sizes.append(size)
        return whole(self, size, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        pixels = Framing(512)(image, random.Random(1))
    assert pixels.shape == (3, 512, 512) and sizes == [(512, 512)]


def test_a_picture_that_is_too_large_is_named_and_a_large_one_is_taken(tmp_path, monkeypatch):
    noise(40, 20).save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a wide wall")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns of 800, and refuses more than 1,000
    assert load_images(DataSettings(train_data_dir=str(tmp_path))).image(0).size == (40, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(ValueError, match=r"Picture 0 of .*'a wide wall', .*b\.txt\) can't be read: it has more than"):
        load_images(DataSettings(train_data_dir=str(tmp_path)))
