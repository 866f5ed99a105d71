"""How pictures of any size become tensors: squares, or the shape of their bucket."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .buckets import Buckets, Size, buckets_of
from .captioned import CaptionedImages, Look
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
    others: Mapping[Look, Framing] = field(default_factory=dict, compare=False)
    """Of folders that say something of their own."""

    def of(self, look: Look) -> Framing:
        """The framing of a picture whose folder says this."""
        return self.others.get(look.as_framed, self)

    def still(self) -> Framing:
        """The same without anything random."""
        others = {look: framing.still() for look, framing in self.others.items()}
        return replace(self, center_crop=True, random_flip=False, others=others)

    def is_random(self, images: CaptionedImages) -> bool:
        """Whether the tensor of a picture can differ from one epoch to the next."""
        flips = any(self.of(look).random_flip for look in set(images.looks))
        return flips or not (self.is_centred or images.all_square)

    def has_few_forms(self, size: Size) -> bool:
        """Whether a picture of this size becomes one tensor, or two that mirror each other."""
        return self.is_centred or size[0] == size[1]

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

    def mask(self, mask: Image.Image, frame: Frame) -> Tensor:
        """The same part of a picture's mask, which may be of another size.  -> (1, height, width), float32 in [0, 1]"""
        (width, height), left, top = frame.target, frame.left, frame.top
        mask = _resized_part(mask, frame.resized, (left, top, left + width, top + height), "box")
        if frame.flipped:
            mask = ImageOps.mirror(mask)
        return torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)[None]

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
    pictures = zip(images.looks, images.sizes, strict=True)
    return dict(sorted(Counter(framing.of(look).target(size) for look, size in pictures).items()))


def too_small(images: CaptionedImages, framing: Framing) -> list[int]:
    """Pictures that are enlarged, since a side is below that of the smallest bucket."""
    found = []
    for index, (look, size) in enumerate(zip(images.looks, images.sizes, strict=True)):
        buckets = framing.of(look).buckets
        if buckets and buckets.is_too_small(size):
            found.append(index)
    return found


def say_shapes(images: CaptionedImages, framing: Framing) -> str:
    """How often pictures are met, and the buckets and how many pictures they have, for the log; no buckets for squares.

    Pictures that are enlarged since they are smaller than the smallest bucket are warned of.
    """
    met = sum(images.repeats)
    known = sum(images.priors)
    again = f", {known} of them of the class" * bool(known) + f", {met} in an epoch" * (met != len(images))
    if framing.buckets is None:
        return again
    small = too_small(images, framing)
    if small and not framing.buckets.upscale:
        logger.warning(
            "%d of %d pictures have a side below that of the smallest bucket (%d) and are enlarged, which makes them "
            "soft, such as number %d%s. Take them out, or train at a smaller --resolution.",
            *(len(small), len(images), framing.buckets.low, small[0], images.places[small[0]]),
        )
    shapes = shapes_of(images, framing)
    return f"{again} in {len(shapes)} buckets: " + ", ".join(f"{count} of {w}x{h}" for (w, h), count in shapes.items())


def _resized_part(
    image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """`image.resize(size).crop(part)`, without making what the crop leaves out: 4,000 x 1 would need gigabytes."""
    if size == image.size:
        return image.crop(part)
    across, down = image.width / size[0], image.height / size[1]
    box = (part[0] * across, part[1] * down, min(part[2] * across, image.width), min(part[3] * down, image.height))
    return image.resize((part[2] - part[0], part[3] - part[1]), Image.Resampling[interpolation.upper()], box)


class Sides(NamedTuple):
    """What of a model shapes its pictures."""

    multiple: int
    """What sides must be multiples of: the VAE's pixels for one latent."""
    preferred: int
    """What they had better be multiples of, so that the U-Net can halve them as often as it does."""


def framing_of(data: DataSettings, resolution: int, images: CaptionedImages, parts: Parts) -> Framing:
    """As `framing_by`, for a loaded model."""
    factor = parts.pixels_per_latent
    halved = 2 ** (len(parts.unet.config.block_out_channels) - 1)
    return framing_by(data, resolution, images, Sides(factor, factor * halved))


def framing_by(data: DataSettings, resolution: int, images: CaptionedImages, sides: Sides) -> Framing:
    """How the settings have pictures framed for a model: in buckets, unless all are square or `--no_buckets` is given.

    Raises:
        ValueError: the settings of buckets, or a folder's resolution, don't fit the model.
    """
    in_buckets = data.buckets or (data.buckets is None and not images.all_square)

    def framing(look: Look, others: Mapping[Look, Framing]) -> Framing:
        side, flip = look.resolution or resolution, data.random_flip if look.flip is None else look.flip
        if look.resolution and side % sides.multiple:
            raise ValueError(f"A folder's resolution is {side}. It must be a multiple of {sides.multiple}.")
        buckets = buckets_of(data, side, *sides) if in_buckets else None
        return Framing(side, data.center_crop, flip, data.image_interpolation_mode, buckets, others)

    looks = {look.as_framed for look in images.every_look}
    return framing(Look(), {look: framing(look, {}) for look in looks - {Look()}})
