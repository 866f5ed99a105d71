"""Captioned pictures: a folder, a data set of the Hub, an embedded style, or OpenMoji.

Everything is read and checked before training starts, so that a bad picture costs seconds and not a run.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..runs.names import OPENMOJI, STYLES
from .folders import PLACE, open_folder, root_cause
from .openmoji import load_openmoji
from .pictures import as_rgb, check_depth, enable_heic
from .settings import DataSettings, UnetSettings
from .styles import TRAIN, UNSEEN, load_style

_COLUMNS = {"image": ("image", "img", "picture"), "text": ("text", "caption", "prompt", "name")}
CHECKED_UP_TO = 20_000
"""Larger data sets are decoded as they are used, and not all of them before."""


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


class CaptionedImages:
    """Pictures with one or more captions each, checked.

    Args:
        captions: a caption, or a list of them, for each picture.
        read: gives the picture of an index, decoded or not.
        name: what errors call the data.
        places: where the caption of each picture stands, for errors.

    Raises:
        ValueError: there is no picture, a caption is empty, or a picture can't be decoded; the message names it.
    """

    def __init__(
        self, captions: Sequence[Any], read: Callable[[int], Any], name: str, places: Sequence[str] | None = None
    ) -> None:
        enable_heic()
        self.name = name
        self.places = [f", {place}" for place in places] if places else [""] * len(captions)
        self._read = read
        if not captions:
            raise ValueError(f"{name} has no pictures. Give a folder of pictures with captions.")
        self.captions = [_captions(caption, index, name + self.places[index]) for index, caption in enumerate(captions)]
        self.all_square = self._check_images() if len(captions) <= CHECKED_UP_TO else False

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, index: int) -> Image.Image:
        """The picture as it was stored."""
        try:
            with warnings.catch_warnings():  # Pillow warns of large pictures; above twice that size it refuses them
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = self._read(index)
                if not isinstance(image, Image.Image):
                    raise TypeError(f"there is no picture but {image!r}")
                image.load()
            check_depth(image)
        except Exception as error:  # Pillow's decoders raise many kinds; each is about this picture
            raise ValueError(
                f"Picture {index} of {self.name} ({self.captions[index][0]!r}{self.places[index]}) can't be read: "
                f"{_reason(error)}. Replace it, or take it out of the data set."
            ) from error
        return image

    def split(self, count: int, seed: int) -> tuple[CaptionedImages, CaptionedImages]:
        """All pictures but `count`, and those, drawn with the seed.

        Raises:
            ValueError: nothing would be left to train on.
        """
        if count >= len(self):
            raise ValueError(f"--validation_samples {count} leaves none of the {len(self)} pictures of {self.name}.")
        kept_out = set(random.Random(seed).sample(range(len(self)), count))
        rest = [index for index in range(len(self)) if index not in kept_out]
        return self._subset(rest), self._subset(sorted(kept_out))

    def _subset(self, indices: Sequence[int]) -> CaptionedImages:
        part = copy.copy(self)  # checked already
        part._read = lambda index: self._read(indices[index])
        part.captions = [self.captions[index] for index in indices]
        part.places = [self.places[index] for index in indices]
        return part

    def _check_images(self) -> bool:
        sizes = [self.image(index).size for index in range(len(self))]
        return all(width == height for width, height in sizes)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels; make it smaller"
    return (str(error) or type(error).__name__).rstrip(".")


def load_images(
    data: DataSettings, resolution: int = 512, seed: int = 0, cache_dir: str | None = None
) -> CaptionedImages:
    """Opens a data set.

    Args:
        data: where the pictures are, their columns, and how many are used (drawn with the seed).
        resolution: at which drawings of OpenMoji are rendered.

    Raises:
        ValueError, FileNotFoundError, ImportError: what is wrong with the data, and what to do.
    """
    most = data.max_train_samples
    if data.dataset_name == OPENMOJI or data.is_default:
        pairs = load_openmoji(resolution, most, seed)
        return _in_memory(pairs, OPENMOJI)
    if data.dataset_name in STYLES:
        pairs = load_style(data.dataset_name, TRAIN)
        return _in_memory(
            random.Random(seed).sample(pairs, most) if most and most < len(pairs) else pairs, data.dataset_name
        )
    rows, name = _open(data, cache_dir)
    if most is not None:
        rows = rows.shuffle(seed=seed).select(range(min(most, len(rows))))
    return captioned_images(rows, name, data.image_column, data.caption_column)


def load_split(settings: UnetSettings, resolution: int) -> tuple[CaptionedImages, CaptionedImages | None]:
    """The pictures of a run to train on, and those that it keeps out of training, if any.

    A style keeps out none of its own, but has pictures of other names for that.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_images`; also if nothing would be left to train on.
    """
    seed, kept_out = settings.training.seed, settings.validation.validation_samples
    images = load_images(settings.data, resolution, seed, settings.model.cache_dir)
    if kept_out and images.name in STYLES:
        return images, _in_memory(load_style(images.name, UNSEEN)[:kept_out], images.name)
    return images.split(kept_out, seed) if kept_out else (images, None)


def _in_memory(pairs: Sequence[tuple[Image.Image, str]], name: str) -> CaptionedImages:
    return CaptionedImages([caption for _, caption in pairs], lambda index: pairs[index][0], name)


def framing_of(data: DataSettings, resolution: int) -> Framing:
    """How the settings have pictures framed."""
    return Framing(resolution, data.center_crop, data.random_flip, data.image_interpolation_mode)


def captioned_images(
    rows: Any, name: str, image_column: str | None = None, caption_column: str | None = None
) -> CaptionedImages:
    """The pictures and captions of an opened data set.

    Raises:
        ValueError: a column is not there, or as `CaptionedImages`.
    """
    import datasets

    columns = [column for column in rows.column_names if column != PLACE]
    image_column = _column("image", image_column, columns, name)
    caption_column = _column("text", caption_column, columns, name)
    if not isinstance(rows.features[image_column], datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image())
    images = rows.select_columns([image_column])
    places = list(rows[PLACE]) if PLACE in rows.column_names else None
    return CaptionedImages(list(rows[caption_column]), lambda index: images[index][image_column], name, places)


def _open(data: DataSettings, cache_dir: str | None) -> tuple[Any, str]:
    """The rows of a folder, or of a data set of the Hub (its train split), and what errors call them."""
    folder, name = data.train_data_dir, data.dataset_name
    if name is None:
        return open_folder(Path(str(folder)), cache_dir), str(folder)
    import datasets

    try:
        rows = datasets.load_dataset(
            name, data.dataset_config_name, cache_dir=cache_dir, data_dir=folder, split="train"
        )
    except FileNotFoundError:
        raise
    except Exception as error:  # `datasets` raises many kinds, pyarrow's among them; each is about the data here
        raise ValueError(f"The data set {name} can't be read: {root_cause(error)}") from error
    return rows, name


def _column(kind: str, asked: str | None, columns: Sequence[str], name: str) -> str:
    flag = "image_column" if kind == "image" else "caption_column"
    if asked is not None and asked not in columns:
        raise ValueError(f"--{flag} is {asked!r}, but {name} has the columns {', '.join(columns)}.")
    found = asked or next((column for column in _COLUMNS[kind] if column in columns), None)
    if found is None:
        raise ValueError(
            f"{name} has the columns {', '.join(columns)}, none named like {kind}. Rename one to {kind!r}, "
            f"or choose one with --{flag} where a script has it."
        )
    return found


def _captions(value: Any, index: int, name: str) -> list[str]:
    captions = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError(
            f"The caption of picture {index} of {name} is {value!r}. Give every picture a text, or a list of texts."
            + " In a CSV, words such as None and nan stand for no text." * (".csv," in name)
        )
    return captions
