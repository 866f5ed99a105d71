"""How pictures of any size become square tensors."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .data import CaptionedImages
from .pictures import as_rgb
from .settings import DataSettings


@dataclass(frozen=True)
class Framing:
    """How a picture becomes a square tensor; names as in diffusers' train_text_to_image_lora.py."""

    resolution: int
    center_crop: bool = False
    random_flip: bool = False
    interpolation: str = "lanczos"

    def is_random(self, images: CaptionedImages) -> bool:
        """Whether the tensor of a picture can differ from one epoch to the next."""
        return self.random_flip or not (self.center_crop or images.all_square)

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """(3, resolution, resolution), float32 in [-1, 1]."""
        image = as_rgb(image)
        side = self.resolution
        scale = side / min(image.size)
        size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
        spare = (size[0] - side, size[1] - side)
        left, top = (part // 2 if self.center_crop else rng.randint(0, part) for part in spare)
        image = _resized_part(image, size, (left, top, left + side, top + side), self.interpolation)
        if self.random_flip and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1  # (height, width, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _resized_part(
    image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """`image.resize(size).crop(part)`, without making what the crop leaves out: 4,000 x 1 would need gigabytes."""
    if size == image.size:
        return image.crop(part)
    across, down = image.width / size[0], image.height / size[1]
    box = (part[0] * across, part[1] * down, min(part[2] * across, image.width), min(part[3] * down, image.height))
    return image.resize((part[2] - part[0], part[3] - part[1]), Image.Resampling[interpolation.upper()], box)


def framing_of(data: DataSettings, resolution: int) -> Framing:
    """How the settings have pictures framed."""
    return Framing(resolution, data.center_crop, data.random_flip, data.image_interpolation_mode)
