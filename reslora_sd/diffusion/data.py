"""Captioned pictures: a folder, a data set of the Hub, an embedded style, or OpenMoji.

Everything is read and checked before training starts, so that a bad picture costs seconds and not a run.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..runs.names import OPENMOJI, STYLES
from .folders import PLACE, open_folder, root_cause
from .openmoji import load_openmoji, openmoji_names
from .pictures import check_depth, enable_heic
from .settings import DataSettings, UnetSettings
from .styles import TRAIN, UNSEEN, load_style

_COLUMNS = {"image": ("image", "img", "picture"), "text": ("text", "caption", "prompt", "name")}
CHECKED_UP_TO = 20_000
"""Larger data sets are decoded as they are used, and not all of them before."""


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

    def some_captions(self, count: int) -> list[str]:
        """At most `count` different captions, evenly from all over the data: the first, and no picture's second one."""
        different = list(dict.fromkeys(captions[0] for captions in self.captions))
        count = min(count, len(different))
        return [different[place * len(different) // count] for place in range(count)]

    def split(self, count: int, seed: int) -> tuple[CaptionedImages, CaptionedImages]:
        """All pictures but `count`, and those, drawn with the seed.

        Raises:
            ValueError: nothing would be left to train on.
        """
        if count >= len(self):
            raise ValueError(_none_left("validation_samples", count, len(self), self.name))
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


class Split(NamedTuple):
    """The pictures of a run, in parts that share none."""

    training: CaptionedImages
    kept_out: CaptionedImages | None
    """By `--validation_samples`: drawn with the run's seed."""
    test: CaptionedImages | None
    """By `--test_samples`: the same for every seed."""


def _none_left(flag: str, count: int, total: int, name: str) -> str:
    return f"--{flag} {count} leaves none of the {total} pictures of {name}. Keep fewer out."


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
    return _load(data, resolution, seed, cache_dir, 0)[0]


def _load(
    data: DataSettings, resolution: int, seed: int, cache_dir: str | None, test: int
) -> tuple[CaptionedImages, CaptionedImages | None]:
    """As `load_images`, without `test` pictures; and these, which are taken first, so that no seed changes them."""
    most = data.max_train_samples
    if data.dataset_name == OPENMOJI or data.is_default:
        names = openmoji_names()
        rest, apart = _apart(len(names), test, OPENMOJI)
        drawings = load_openmoji(resolution, most, seed, [names[index] for index in rest])
        drawings_apart = load_openmoji(resolution, names=[names[index] for index in apart])
        return _in_memory(drawings, OPENMOJI), _in_memory(drawings_apart, OPENMOJI) if test else None
    if data.dataset_name in STYLES:  # its pictures to test on are of names that it has apart: see load_split
        pairs = load_style(data.dataset_name, TRAIN)
        if most is not None and most < len(pairs):
            pairs = random.Random(seed).sample(pairs, most)
        return _in_memory(pairs, data.dataset_name), None
    rows, name = _open(data, cache_dir)
    rest, apart = _apart(len(rows), test, name)
    columns = (data.image_column, data.caption_column)
    tests = captioned_images(rows.select(apart), name, *columns) if test else None
    if test:
        rows = rows.select(rest)
    if most is not None:
        rows = rows.shuffle(seed=seed).select(range(min(most, len(rows))))
    return captioned_images(rows, name, *columns), tests


def _apart(total: int, count: int, name: str) -> tuple[list[int], list[int]]:
    """All places but `count`, and these."""
    if count and count >= total:
        raise ValueError(_none_left("test_samples", count, total, name))
    apart = set(random.Random(0).sample(range(total), count))
    return [index for index in range(total) if index not in apart], sorted(apart)


def load_split(settings: UnetSettings, resolution: int) -> Split:
    """The pictures of a run to train on, and those that it keeps out of training, if any.

    A style keeps out none of its own, but has pictures of other names for that.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_images`; also if nothing would be left to train on.
    """
    seed, validation = settings.training.seed, settings.validation
    images, test = _load(settings.data, resolution, seed, settings.model.cache_dir, validation.test_samples)
    if images.name in STYLES:
        return Split(images, *_unseen(images.name, validation.validation_samples, validation.test_samples))
    if not validation.validation_samples:
        return Split(images, None, test)
    return Split(*images.split(validation.validation_samples, seed), test)


def _unseen(style: str, count: int, test: int) -> tuple[CaptionedImages | None, CaptionedImages | None]:
    """Of the names that no training on the style sees: the first pictures, and the last, which are to test on."""
    pairs = load_style(style, UNSEEN) if count or test else []
    if count + test > len(pairs):
        raise ValueError(
            f"{style} has {len(pairs)} pictures of unseen names, and --validation_samples {count} with --test_samples "
            f"{test} would need {count + test}. Keep fewer out."
        )
    kept_out, tests = pairs[:count], pairs[len(pairs) - test :]
    return _in_memory(kept_out, style) if count else None, _in_memory(tests, style) if test else None


def _in_memory(pairs: Sequence[tuple[Image.Image, str]], name: str) -> CaptionedImages:
    return CaptionedImages([caption for _, caption in pairs], lambda index: pairs[index][0], name)


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
