"""Pictures with captions, wherever they are stored: opened one by one, and named where something is wrong with them."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import os
import random
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from .pictures import check_depth, enable_heic, has_alpha, upright_size
from .tar_members import Member
from .wording import Wording

_OF_A_PICTURE = ("captions", "places", "repeats", "looks", "priors", "files", "members", "masks")
"""Names of the lists that say something of each picture."""
Found = TypeVar("Found")
CHECKED_UP_TO = 20_000
"""Larger data sets are decoded as they are used, and not all of them before."""


class Look(NamedTuple):
    """What a folder says of its own pictures, instead of the flags."""

    resolution: int | None = None
    flip: bool | None = None
    wording: Wording | None = None

    @property
    def as_framed(self) -> Look:
        """What of it a picture's pixels depend on."""
        return self._replace(wording=None)


class CaptionedImages:
    """Pictures with one or more captions each, checked.

    Args:
        captions: a caption, or a list of them, for each picture.
        read: gives the picture of an index, decoded or not.
        name: what errors call the data.
        places: where the caption of each picture stands, for errors.
        glance: gives the picture of an index, not decoded, where that is cheaper.

    Raises:
        ValueError: there is no picture, a caption is empty, or a picture can't be opened; the message names it.
    """

    def __init__(
        self,
        captions: Sequence[Any],
        read: Callable[[int], Any],
        name: str,
        places: Sequence[str] | None = None,
        glance: Callable[[int], Image.Image] | None = None,
    ) -> None:
        enable_heic()
        self.name = name
        self.places = [f", {place}" for place in places] if places else [""] * len(captions)
        self._read = read
        if not captions:
            raise ValueError(f"{name} has no pictures. Give a folder of pictures with captions.")
        self.captions = [_captions(caption, index, name + self.places[index]) for index, caption in enumerate(captions)]
        self._glance = glance or read
        self.repeats = [1] * len(captions)
        """How often each picture is to be met in an epoch."""
        self.looks = [Look()] * len(captions)
        self.every_look: tuple[Look, ...] = (Look(),)
        """Those of the whole data set, in each of its parts."""
        self.priors = [False] * len(captions)
        """Whether a picture is one of the class, which is there to keep what the model knows of it."""
        self.files: list[str | None] = [None] * len(captions)
        """Where each picture is, if it is a file of its own."""
        self.members: list[Member | None] = [None] * len(captions)
        """Where each picture is, if it is a part of a tar file."""
        self.masks: list[str | None] = [None] * len(captions)
        """The file that says which parts of it count."""
        self.copies_left_out: int | None = None
        """How many pictures were copies of others that are kept out; `None` where nobody looked."""

    def __len__(self) -> int:
        return len(self.captions)

    @functools.cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Of each picture, its upright width and height; nothing is decoded where the header says them."""
        return [self._opened(index, self._glance, upright_size) for index in range(len(self))]

    @property
    def all_square(self) -> bool:
        """Whether every picture is as wide as high."""
        return all(width == height for width, height in self.sizes)

    def openable(self) -> tuple[CaptionedImages, dict[str, str]]:
        """The pictures whose header can be read; of the others, what they are called and what is wrong with them."""
        sizes, damaged = dict[int, tuple[int, int]](), dict[str, str]()
        for index in range(len(self)):
            try:
                sizes[index] = self._opened(index, self._glance, upright_size)
            except ValueError as error:
                damaged[self.label(index)] = str(error.__cause__ or error)
        part = self._subset(list(sizes))
        part.sizes = list(sizes.values())
        return part, damaged

    def label(self, index: int) -> str:
        """Where a picture's caption stands, else its number."""
        return self.places[index].removeprefix(", ") or f"number {index}"

    def without(self, rows: Collection[int]) -> CaptionedImages:
        """The other pictures."""
        return self._subset([index for index in range(len(self)) if index not in rows])

    def subjects(self) -> CaptionedImages:
        """The pictures without those of the class."""
        return self.without({index for index, prior in enumerate(self.priors) if prior})

    def plainly(self) -> CaptionedImages:
        """The same, each picture once in an epoch, with its captions as they are."""
        part = self._subset(range(len(self)))
        part.repeats = [1] * len(self)
        part.looks = [look.as_framed for look in self.looks]
        return part

    def image(self, index: int) -> Image.Image:
        """The picture as it was stored."""
        return self._opened(index, self._read, _loaded)

    def has_alpha(self, index: int) -> bool:
        """Whether the picture says by itself which parts of it are clear; nothing is decoded."""
        return self._opened(index, self._glance, has_alpha)

    def content(self, index: int) -> str:
        """A name for what is stored of a picture: equal for copies, wherever they are."""
        return hashlib.sha256(self._stored(index)).hexdigest()

    def stored_size(self, index: int) -> int:
        """In bytes."""
        file = self.files[index]
        member = self.members[index]
        return os.stat(file).st_size if file else member.size if member else len(self._stored(index))

    def _stored(self, index: int) -> bytes:
        file = self.files[index]
        if file:
            return Path(file).read_bytes()
        if member := self.members[index]:
            return member.read()
        image = self._opened(index, self._glance, lambda image: image)
        held = getattr(image, "fp", None)
        return (
            held.getvalue() if isinstance(held, io.BytesIO) else f"{image.mode}{image.size}".encode() + image.tobytes()
        )

    def check(self) -> CaptionedImages:
        """Decodes all pictures of a data set that isn't very large, so that a damaged one is found before training.

        Raises:
            ValueError: one can't be decoded; the message names it.
        """
        for index in range(len(self) if len(self) <= CHECKED_UP_TO else 0):
            self.image(index)
        return self

    def _opened(self, index: int, read: Callable[[int], Any], use: Callable[[Image.Image], Found]) -> Found:
        try:
            with warnings.catch_warnings():  # Pillow warns of large pictures; above twice that size it refuses them
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = read(index)
                if not isinstance(image, Image.Image):
                    raise TypeError(f"there is no picture but {image!r}")
                return use(image)
        except Exception as error:  # Pillow's decoders raise many kinds; each is about this picture
            raise ValueError(
                f"Picture {index} of {self.name} ({self.captions[index][0]!r}{self.places[index]}) can't be read: "
                f"{_reason(error)}. Replace it, or take it out of the data set."
            ) from error

    def some_captions(self, count: int) -> list[str]:
        """At most `count` different captions, evenly from all over the data: the first, and no picture's second one.

        Those of the class don't count.
        """
        mine = zip(self.captions, self.priors, strict=True)
        different = list(dict.fromkeys(captions[0] for captions, prior in mine if not prior))
        count = min(count, len(different))
        return [different[place * len(different) // count] for place in range(count)]

    def split(self, count: int, seed: int) -> tuple[CaptionedImages, CaptionedImages]:
        """All pictures but `count`, and those, drawn with the seed.

        Raises:
            ValueError: nothing would be left to train on.
        """
        if count >= len(self):
            raise ValueError(none_left("validation_samples", count, len(self), self.name))
        kept_out = set(random.Random(seed).sample(range(len(self)), count))
        rest = [index for index in range(len(self)) if index not in kept_out]
        return self._subset(rest), self._subset(sorted(kept_out))

    def _subset(self, indices: Sequence[int]) -> CaptionedImages:
        part = copy.copy(self)  # its captions are checked already
        part._read = lambda index: self._read(indices[index])
        part._glance = lambda index: self._glance(indices[index])
        for name in _OF_A_PICTURE:
            setattr(part, name, [getattr(self, name)[index] for index in indices])
        if "sizes" in vars(self):
            part.sizes = [self.sizes[index] for index in indices]
        return part


def joined(parts: Sequence[CaptionedImages], name: str, order: Sequence[int] | None = None) -> CaptionedImages:
    """Several data sets as one.

    Args:
        order: of the pictures of all parts one after the other.
    """
    places = [(part, index) for part in parts for index in range(len(part))]
    places = [places[index] for index in order] if order is not None else places

    def read(index: int) -> Any:
        part, place = places[index]
        return part._read(place)

    def glance(index: int) -> Any:
        part, place = places[index]
        return part._glance(place)

    whole = CaptionedImages([part.captions[place] for part, place in places], read, name, None, glance)
    whole.places = [part.places[place] or f", {part.name}" for part, place in places]
    for name in ("repeats", "looks", "priors", "files", "members", "masks"):
        setattr(whole, name, [getattr(part, name)[place] for part, place in places])
    whole.every_look = tuple(dict.fromkeys(look for part in parts for look in part.every_look))
    return whole


def copies(images: CaptionedImages, others: CaptionedImages) -> set[int]:
    """Rows of pictures that are among the others, too."""
    sizes = {others.stored_size(row) for row in range(len(others))}
    alike = [row for row in range(len(images)) if images.stored_size(row) in sizes]
    known = {others.content(row) for row in range(len(others))} if alike else set()
    return {row for row in alike if images.content(row) in known}


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    check_depth(image)
    return image


def none_left(flag: str, count: int, total: int, name: str) -> str:
    """What is wrong with keeping so many out."""
    return f"--{flag} {count} leaves none of the {total} pictures of {name}. Keep fewer out."


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels; make it smaller"
    return (str(error) or type(error).__name__).rstrip(".")


def _captions(value: Any, index: int, name: str) -> list[str]:
    captions = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError(
            f"The caption of picture {index} of {name} is {value!r}. Give every picture a text, or a list of texts."
            + " In a CSV, words such as None and nan stand for no text." * (".csv," in name)
        )
    return captions
