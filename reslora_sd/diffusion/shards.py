"""Tar files of pictures and captions, as WebDataset and img2dataset write them; nothing is unpacked. No torch.

A sample is what has one name up to the first dot, as in WebDataset: `a/1.jpg` with `a/1.txt`, `a/1.caption` or
`a/1.json`. Headers are read once; then each member is read from its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..files.texts import utf8_text
from .captioned import CaptionedImages
from .pictures import first_line, picture_kinds, unreadable_kind
from .sources import CaptionsFrom, numbered_name
from .survey import Survey
from .tar_members import Member, Shard, members_of

_ENDS = {"auto": ("txt", "caption", "json"), "txt": ("txt",), "caption": ("caption",), "metadata": ("json",)}
"""Ends of members with captions, the first of which counts."""
_KEYS = ("text", "caption", "prompt", "name")
"""Entries of a JSON member that may be the caption, the first of which counts."""
_PICKLES = frozenset("pickle pkl pyd pt pth".split())
_MOST_TEXT = 2**20
"""Bytes of a member with captions."""


@dataclass(frozen=True)
class ShardRows:
    """The pictures of shards, one after the other, as they stand there."""

    members: Sequence[Member]
    captions: Sequence[Any]
    places: Sequence[str]
    repeats: Sequence[int]

    def __len__(self) -> int:
        return len(self.members)

    def select(self, rows: Sequence[int]) -> ShardRows:
        """These rows, in this order."""
        return ShardRows(
            [self.members[row] for row in rows],
            [self.captions[row] for row in rows],
            [self.places[row] for row in rows],
            [self.repeats[row] for row in rows],
        )

    def images(self, name: str) -> CaptionedImages:
        """Their pictures, opened one by one."""

        def read(index: int) -> Image.Image:
            return Image.open(self.members[index].open())

        found = CaptionedImages(self.captions, read, name, self.places)
        found.members, found.repeats = list(self.members), list(self.repeats)
        return found


class _Sample(NamedTuple):
    """What of a shard has one name."""

    shard: Shard
    key: str
    ends: dict[str, Member]
    """By what follows the key's dot, in small letters."""

    def name(self, end: str) -> str:
        return f"{self.key}.{end}"

    def place(self, end: str) -> str:
        return f"{self.shard.path}, {self.name(end)}"


def open_shards(
    survey: Survey,
    captions: CaptionsFrom = "auto",
    class_name: str | None = None,
    caption_column: str | None = None,
) -> ShardRows:
    """The rows of a folder's shards, or of the one that the survey is of.

    Args:
        captions: as in `open_folder`; "metadata" are the JSON members.
        caption_column: the entry of these that is the caption.

    Raises:
        ValueError: a shard is damaged or holds what can't be; the message names it, and the member.
        FileNotFoundError: pictures have no caption.
    """
    kinds = frozenset(kind.removeprefix(".") for kind in picture_kinds())
    pictures = []
    for file in survey.shards:
        for sample in _samples(file, survey):
            if end := _picture(sample, kinds, survey):
                pictures.append((sample, end))
    numbers = _numbers([sample for sample, _ in pictures], survey)
    ends = () if captions == "folder" else _ENDS[captions]
    found, missing = [], []
    for (sample, end), (_, own) in zip(pictures, numbers, strict=True):
        said = next((written for written in ends if written in sample.ends), None)
        word = own or class_name or (Path(sample.key).parent.name if captions == "folder" else "")
        if said is None and not word:
            missing.append((sample, end))
            continue
        found.append(word if said is None else _caption(sample, said, caption_column))
    if missing or not pictures:
        raise FileNotFoundError(_without_captions(survey, missing, len(pictures), ends))
    count = len(survey.shards)
    survey.tell(f"{len(pictures)} picture{'s' * (len(pictures) != 1)} of {count} tar file{'s' * (count != 1)}")
    return ShardRows(
        [sample.ends[end] for sample, end in pictures],
        found,
        [sample.place(end) for sample, end in pictures],
        [repeats for repeats, _ in numbers],
    )


def _samples(file: Path, survey: Survey) -> list[_Sample]:
    """The samples of a shard, as they stand there."""
    shard = Shard.of(file)
    found: dict[str, _Sample] = {}
    for name, member in members_of(shard):
        folder, _, last = name.rpartition("/")
        if last.startswith(".") or "__MACOSX" in name.split("/"):
            survey.note("hidden files", [file / name])
            continue
        stem, _, end = last.partition(".")
        key, end = f"{folder}/{stem}" if folder else stem, end.lower()
        sample = found.setdefault(key, _Sample(shard, key, {}))
        if end in sample.ends:
            raise ValueError(f"The shard {file} has {name} twice. Write it again, with each name once.")
        sample.ends[end] = member
    return list(found.values())


def _picture(sample: _Sample, kinds: frozenset[str], survey: Survey) -> str | None:
    """The end of the picture of a sample; of what isn't read, the survey takes note."""
    file = Path(sample.shard.path)
    pictures = [end for end in sample.ends if end in kinds]
    if len(pictures) > 1:
        names = " and ".join(map(sample.name, pictures[:2]))
        raise ValueError(
            f"The shard {file} has two pictures of one name: {names}. Keep one of them, or give them different names."
        )
    for end in sample.ends:
        last = end.rpartition(".")[2]
        path = file / sample.name(end)
        if last in _PICKLES:
            survey.note("pickles, which are never opened", [path], warn=True)
        elif last != end and last in kinds:
            survey.note("pictures with several dots in their names, which end at the first", [path], warn=True)
        elif remedy := unreadable_kind(f".{last}"):
            survey.note(f"pictures of a kind that can't be opened here ({remedy})", [path], warn=True)
        elif not pictures:
            survey.note("members without a picture", [path])
    return pictures[0] if pictures else None


def _numbers(samples: Sequence[_Sample], survey: Survey) -> list[tuple[int, str | None]]:
    """Repeats and class of each, by kohya's folders: those that the shards lie in, or else those within them."""
    if survey.numbered:
        files = [Path(sample.shard.path) for sample in samples]
        return [(survey.repeats(file), survey.class_of(file)) for file in files]
    found = [numbered_name(sample.key.split("/")[0]) if "/" in sample.key else None for sample in samples]
    if all(found):
        return [one for one in found if one]
    odd = [Path(one.shard.path) / one.key for one, number in zip(samples, found, strict=True) if number]
    survey.note("pictures in numbered folders that repeat nothing, since not every picture lies in one", odd, warn=True)
    return [(1, None)] * len(samples)


def _caption(sample: _Sample, end: str, asked: str | None) -> Any:
    """Of a text, its first line; of a JSON, an entry, which may be a list."""
    member, place = sample.ends[end], sample.place(end)
    if member.size > _MOST_TEXT:
        raise ValueError(f"{place} has {member.size} bytes, which is no caption. It may have {_MOST_TEXT}.")
    text = utf8_text(member.read(), place)
    if end != "json":
        if not first_line(text):
            raise ValueError(f"{place} is empty. Write the caption of the picture of this name into it.")
        return first_line(text)
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}. Write an object with a caption.") from error
    keys = (asked,) if asked else _KEYS
    key = next((key for key in keys if isinstance(said, dict) and key in said), None)
    if key is None:
        names = ", ".join(map(repr, said))[:200] if isinstance(said, dict) else f"{said!r:.80}"
        raise ValueError(f"{place} has no {' or '.join(map(repr, keys))}, but {names or 'nothing'}. Write a caption.")
    words = said[key] if isinstance(said[key], list) else [said[key]]
    if not words or not all(isinstance(one, str) and one.strip() for one in words):
        raise ValueError(f"{place}: {key!r} is {said[key]!r:.80}. Write a text, or a list of texts.")
    return said[key]


def _without_captions(survey: Survey, missing: Sequence[tuple[_Sample, str]], total: int, ends: Sequence[str]) -> str:
    if not total:
        survey.tell("no pictures")
        return f"The tar files of {survey.root} hold no pictures that can be opened here. Write 1.jpg with 1.txt."
    sample, end = missing[0]
    wanted = sample.name(ends[0]) if ends else "a folder whose name is the caption"
    return (
        f"{len(missing)} of {total} pictures of {survey.root} have no caption, such as {sample.place(end)}. Write that "
        f"into {wanted} of the same tar file."
    )
