"""The pictures of a run: a folder, a data set of the Hub, an embedded style, or OpenMoji; and what is kept out of them.

Everything is read and checked before training starts, so that a bad picture costs seconds and not a run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..runs.names import OPENMOJI, STYLES
from .captioned import CaptionedImages as CaptionedImages
from .captioned import captioned_images as captioned_images
from .captioned import none_left
from .folders import open_folder, root_cause
from .openmoji import load_openmoji, openmoji_names
from .settings import DataSettings, UnetSettings
from .styles import TRAIN, UNSEEN, load_style


class Split(NamedTuple):
    """The pictures of a run, in parts that share none."""

    training: CaptionedImages
    kept_out: CaptionedImages | None
    """By `--validation_samples`: drawn with the run's seed."""
    test: CaptionedImages | None
    """By `--test_samples`: the same for every seed."""


def load_images(
    data: DataSettings, resolution: int = 512, seed: int = 0, cache_dir: str | None = None
) -> CaptionedImages:
    """Opens and checks a data set.

    Args:
        data: where the pictures are, their columns, and how many are used (drawn with the seed).
        resolution: at which drawings of OpenMoji are rendered.

    Raises:
        ValueError, FileNotFoundError, ImportError: what is wrong with the data, and what to do.
    """
    return _load(data, resolution, seed, cache_dir, 0)[0].check()


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
        raise ValueError(none_left("test_samples", count, total, name))
    apart = set(random.Random(0).sample(range(total), count))
    return [index for index in range(total) if index not in apart], sorted(apart)


def load_split(settings: UnetSettings, resolution: int) -> Split:
    """The pictures of a run to train on, and those that it keeps out of training, if any. None is decoded yet.

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
