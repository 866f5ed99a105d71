"""The pictures of a run: a folder, a data set of the Hub, an embedded style, or OpenMoji; and what is kept out of them.

Everything is read and checked before training starts, so that a bad picture costs seconds and not a run.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..runs.names import OPENMOJI, STYLES
from .captioned import CaptionedImages as CaptionedImages
from .captioned import Look, copies, joined, none_left
from .folders import open_folder, root_cause
from .masks import check_masks, find_masks
from .openmoji import load_openmoji, openmoji_names
from .prior import with_class
from .rows import captioned_images as captioned_images
from .rows import picture_files
from .settings import DataSettings, UnetSettings
from .sources import Source, class_source, sources_of
from .styles import TRAIN, UNSEEN, load_style
from .wording import wording_of

logger = logging.getLogger("reslora_sd")


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
    """Opens and checks a data set: `load_pictures`, each of which is decoded once.

    Args:
        data: where the pictures are, their columns, and how many are used (drawn with the seed).
        resolution: at which drawings of OpenMoji are rendered.

    Raises:
        ValueError, FileNotFoundError, ImportError: what is wrong with the data, and what to do.
    """
    return load_pictures(data, resolution, seed, cache_dir).check()


def load_pictures(
    data: DataSettings, resolution: int = 512, seed: int = 0, cache_dir: str | None = None
) -> CaptionedImages:
    """As `load_images`, and no picture is decoded."""
    return with_class(_load(data, resolution, seed, cache_dir, 0)[0], _of_class(data, cache_dir))


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
    opened = [_open(source, cache_dir, data.masked_loss) for source in sources_of(data) if not source.is_reg]
    name = data.dataset_config or opened[0].name
    rest, apart = _apart(sum(len(one.rows) for one in opened), test, name)
    if most is not None:  # as `datasets` shuffles
        rest = [rest[place] for place in np.random.default_rng(seed).permutation(len(rest))[:most]]
    return _picked(opened, rest, name, data), _picked(opened, apart, name, data) if test else None


def _apart(total: int, count: int, name: str) -> tuple[list[int], list[int]]:
    """All places but `count`, and these."""
    if count and count >= total:
        raise ValueError(none_left("test_samples", count, total, name))
    apart = set(random.Random(0).sample(range(total), count))
    return [index for index in range(total) if index not in apart], sorted(apart)


def load_split(settings: UnetSettings, resolution: int, of_class: bool = True, with_copies: bool = False) -> Split:
    """The pictures of a run to train on, and those that it keeps out of training, if any. None is decoded yet.

    A style keeps out none of its own, but has pictures of other names for that. Pictures of the class are trained on.

    Args:
        of_class: whether these are loaded, too.
        with_copies: whether pictures of which a copy is kept out are trained on, as in runs of earlier versions.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_images`; also if nothing would be left to train on.
    """
    cache_dir = settings.model.cache_dir
    split = _split(settings, resolution)
    sources = sources_of(settings.data)
    if len(sources) > 1 and not with_copies:
        split = _without_copies(split)
    whole = with_class(split.training, _of_class(settings.data, cache_dir)) if of_class else split.training
    whole.copies_left_out = split.training.copies_left_out
    if settings.data.masked_loss:
        count = check_masks(whole, [split.kept_out, split.test], any(source.mask for source in sources))
        others = "; the others count as a whole" * (count < len(whole))
        logger.info("%d of %d pictures have a mask%s.", count, len(whole), others)
    return split._replace(training=whole)


def _split(settings: UnetSettings, resolution: int) -> Split:
    seed, validation = settings.training.seed, settings.validation
    images, test = _load(settings.data, resolution, seed, settings.model.cache_dir, validation.test_samples)
    if images.name in STYLES:
        return Split(images, *_unseen(images.name, validation.validation_samples, validation.test_samples))
    if not validation.validation_samples:
        return Split(images, None, test)
    return Split(*images.split(validation.validation_samples, seed), test)


def _without_copies(split: Split) -> Split:
    """The split without the pictures of its training that are kept out, too, since several folders have them."""
    training, before = split.training, len(split.training)
    for apart in (split.test, split.kept_out):
        twins = copies(training, apart) if apart else set()
        if len(twins) == len(training):
            raise ValueError(f"All pictures of {training.name} have copies among those kept out. Keep fewer out.")
        if twins:
            logger.warning("%d pictures are copies of pictures that are kept out, and aren't trained on.", len(twins))
            training = training.without(twins)
    training.copies_left_out = before - len(training)
    return split._replace(training=training)


def _of_class(data: DataSettings, cache_dir: str | None) -> list[CaptionedImages]:
    """The pictures of each folder that keeps what the model knows of the class."""
    found = []
    for source in [one for one in sources_of(data) if one.is_reg] if data.dataset_config else []:
        found.append(_all_of(_open(source, cache_dir, data.masked_loss), data))
    named = class_source(data)
    if named is not None:
        part = _all_of(_open(named, cache_dir), data)
        if data.class_prompt:
            part.captions = [[data.class_prompt] for _ in range(len(part))]
        found.append(part)
    return found


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


class _Opened(NamedTuple):
    """A source whose rows can be read."""

    source: Source
    rows: Any
    name: str
    """What errors call it."""
    masks: Mapping[str, str] = {}
    """Of its picture files, whichever of them are taken."""


def _open(source: Source, cache_dir: str | None, masked: bool = False) -> _Opened:
    """The rows of a folder, or of a data set of the Hub (its train split)."""
    folder, name = source.path, source.dataset_name
    if name is None:
        path = Path(str(folder))
        rows = open_folder(path, cache_dir, source.captions, source.class_name, source.caption_column)
        if not (source.mask and masked):
            return _Opened(source, rows, str(folder))
        files = picture_files(rows, str(folder), source.image_column)
        return _Opened(source, rows, str(folder), find_masks(Path(source.mask), files, path))
    import datasets

    try:
        rows = datasets.load_dataset(
            name, source.dataset_config_name, cache_dir=cache_dir, data_dir=folder, split="train"
        )
    except FileNotFoundError:
        raise
    except Exception as error:  # `datasets` raises many kinds, pyarrow's among them; each is about the data here
        raise ValueError(f"The data set {name} can't be read: {root_cause(error)}") from error
    return _Opened(source, rows, name)


def _all_of(opened: _Opened, data: DataSettings) -> CaptionedImages:
    return _picked([opened], range(len(opened.rows)), opened.name, data)


def _picked(opened: Sequence[_Opened], places: Sequence[int], name: str, data: DataSettings) -> CaptionedImages:
    """The pictures at these places of all sources one after the other, in this order."""
    parts, order, start, before = [], dict[int, int](), 0, 0
    for source, rows, own_name, masks in opened:
        mine = [place for place in places if start <= place < start + len(rows)]
        order |= {place: before + at for at, place in enumerate(mine)}
        start, before = start + len(rows), before + len(mine)
        if mine or len(opened) == 1:
            chosen = rows.select([place - start + len(rows) for place in mine])
            part = captioned_images(chosen, own_name, source.image_column, source.caption_column)
            part.masks = [masks.get(file or "") for file in part.files]
            parts.append(_as_described(part, source, data))
    parts[0].name = name if len(opened) == 1 else parts[0].name
    return parts[0] if len(opened) == 1 else joined(parts, name, [order[place] for place in places])


def _as_described(images: CaptionedImages, source: Source, data: DataSettings) -> CaptionedImages:
    """Pictures with what their source says of them."""
    if source.repeats is not None:
        images.repeats = [source.repeats] * len(images)
    images.captions = [source.worded(captions) for captions in images.captions]
    look = Look(source.resolution, source.flip, source.wording(wording_of(data)))
    images.looks, images.every_look = [look] * len(images), (look,)
    return images
