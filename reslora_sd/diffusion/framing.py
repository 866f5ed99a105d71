"""How pictures of any size become tensors: squares, or the shape of their bucket."""

from __future__ import annotations

import logging
import random
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .buckets import Buckets, Size, buckets_of
from .data import CaptionedImages
from .models import Parts
from .pictures import as_rgb
from .settings import DataSettings


class Frame(NamedTuple):
    """What becomes of one picture, in pixels."""

    original: Size
    """Width and height as stored, upright."""
    resized: Size
    """Before the crop."""
    left: int
    """What the crop leaves out on the left of the resized picture."""
    top: int
    """What it leaves out above."""
    target: Size
    """Width and height of the tensor."""
    flipped: bool = False
    """Mirrored, after the crop."""

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's conditioning, in its order: original height and width, top and left of the crop, target height and
        width (diffusers, StableDiffusionXLPipeline._get_add_time_ids); in a mirrored picture, left is its own left."""
        left = self.resized[0] - self.target[0] - self.left if self.flipped else self.left
        return (*self.original[::-1], self.top, left, *self.target[::-1])


class WrongSizeError(ValueError):
    """A picture's header and its pixels don't agree, which damaged files and odd places of EXIF tags bring about."""


logger = logging.getLogger("reslora_sd")


@dataclass(frozen=True)
class Framing:
    """How a picture becomes a tensor; names as in diffusers' train_text_to_image_lora.py."""

    resolution: int
    center_crop: bool = False
    """Of squares; in a bucket, little is left over, and the centre stays."""
    random_flip: bool = False
    interpolation: str = "lanczos"
    buckets: Buckets | None = None
    """Without them, every picture becomes a square."""

    def is_random(self, images: CaptionedImages) -> bool:
        """Whether the tensor of a picture can differ from one epoch to the next."""
        return self.random_flip or not (self.is_centred or images.all_square)

    def target(self, size: Size) -> Size:
        """Width and height of the tensor of a picture of this upright size."""
        return self.buckets.of(size) if self.buckets else (self.resolution, self.resolution)

    def frame(self, size: Size, rng: random.Random) -> Frame:
        """Draws what becomes of a picture of this upright size."""
        target = self.target(size)
        scale = max(side / whole for side, whole in zip(target, size, strict=True))
        resized = (max(target[0], round(size[0] * scale)), max(target[1], round(size[1] * scale)))
        spare = (resized[0] - target[0], resized[1] - target[1])
        left, top = (part // 2 if self.is_centred else rng.randint(0, part) for part in spare)
        return Frame(size, resized, left, top, target, self.random_flip and rng.random() < 0.5)

    def pixels(self, image: Image.Image, frame: Frame) -> Tensor:
        """(3, height, width), float32 in [-1, 1].

        Raises:
            WrongSizeError: the picture has another size than the frame is for.
        """
        image = as_rgb(image)
        if image.size != frame.original:
            said, found = ("{}x{}".format(*size) for size in (frame.original, image.size))
            raise WrongSizeError(f"it is {said} by its header, and {found} once it is read. Save it anew.")
        (width, height), left, top = frame.target, frame.left, frame.top
        image = _resized_part(image, frame.resized, (left, top, left + width, top + height), self.interpolation)
        if frame.flipped:
            image = ImageOps.mirror(image)
        pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1  # (height, width, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """As `pixels`, of a frame that is drawn."""
        image = as_rgb(image)
        return self.pixels(image, self.frame(image.size, rng))

    @property
    def is_centred(self) -> bool:
        """Whether the same is cut off at both sides."""
        return self.center_crop or self.buckets is not None


def shapes_of(images: CaptionedImages, framing: Framing) -> dict[Size, int]:
    """How many pictures become tensors of each width and height, the narrowest first."""
    return dict(sorted(Counter(map(framing.target, images.sizes)).items()))


def say_shapes(images: CaptionedImages, framing: Framing) -> str:
    """The buckets and how many pictures they have, for the log; nothing for squares.

    Pictures that are enlarged since they are smaller than the smallest bucket are warned of.
    """
    buckets = framing.buckets
    if buckets is None:
        return ""
    small = [index for index, size in enumerate(images.sizes) if buckets.is_too_small(size)]
    if small and not buckets.upscale:
        logger.warning(
            "%d of %d pictures have a side below %d pixels and are enlarged, which makes them soft, such as %d%s. "
            "Take them out, or train at a smaller --resolution.",
            *(len(small), len(images), buckets.low, small[0], images.places[small[0]]),
        )
    shapes = shapes_of(images, framing)
    return f" in {len(shapes)} buckets: " + ", ".join(f"{count} of {w}x{h}" for (w, h), count in shapes.items())


def _resized_part(
    image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """`image.resize(size).crop(part)`, without making what the crop leaves out: 4,000 x 1 would need gigabytes."""
    if size == image.size:
        return image.crop(part)
    across, down = image.width / size[0], image.height / size[1]
    box = (part[0] * across, part[1] * down, min(part[2] * across, image.width), min(part[3] * down, image.height))
    return image.resize((part[2] - part[0], part[3] - part[1]), Image.Resampling[interpolation.upper()], box)


def framing_of(data: DataSettings, resolution: int, images: CaptionedImages, parts: Parts) -> Framing:
    """How the settings have pictures framed for a model: in buckets, unless all are square or `--no_buckets` is given.

    Raises:
        ValueError: the settings of buckets don't fit the model or the resolution.
    """
    buckets = None
    if data.buckets or (data.buckets is None and not images.all_square):
        halved = 2 ** (len(parts.unet.config.block_out_channels) - 1)
        buckets = buckets_of(data, resolution, parts.pixels_per_latent, parts.pixels_per_latent * halved)
    return Framing(resolution, data.center_crop, data.random_flip, data.image_interpolation_mode, buckets)
