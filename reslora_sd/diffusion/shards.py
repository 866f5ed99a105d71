"""Tar files of pictures and captions, as WebDataset and img2dataset write them; nothing is unpacked. No torch.

A sample is what has one name up to the first dot, as in WebDataset: `a/1.jpg` with `a/1.txt`, `a/1.caption` or
`a/1.json`. Headers are read once; then each member is read from its place. Pictures are in the order of their names,
as those of a folder, in whichever order they were packed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..files.texts import utf8_text
from .captioned import CaptionedImages
from .pictures import first_line, picture_kinds, unreadable_kind
from .sources import CaptionsFrom, numbered_name
from .survey import SYSTEM, Survey
from .tar_members import Member, Shard, members_of, shown

_ENDS = {"auto": ("txt", "caption", "json"), "txt": ("txt",), "caption": ("caption",), "metadata": ("json",)}
"""Ends of members with captions, the first of which counts."""
CAPTION_NAMES = ("text", "caption", "prompt", "name")
"""Entries of a JSON member, or columns of a table, that may be the caption, the first of which counts."""
_PICKLES = frozenset("pickle pkl pyd pt pth".split())
_MOST_TEXT = 2**20
"""Bytes of a member with captions."""


@dataclass(frozen=True)
class ShardRows:
    """The pictures of shards, one shard after the other."""

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
        members = list(self.members)

        def read(index: int) -> Image.Image:
            return Image.open(members[index].open())

        found = CaptionedImages(self.captions, read, name, self.places)
        found.members, found.repeats = list[Member | None](members), list(self.repeats)
        return found


class _Sample(NamedTuple):
    """What of a shard has one name."""

    shard: Shard
    members: dict[str, tuple[str, Member]]
    """By what follows the first dot, in small letters: the whole name, and where it is."""

    def place(self, end: str) -> str:
        return f"{self.shard.path}, {shown(self.members[end][0])}"

    def path(self, end: str) -> Path:
        return Path(self.shard.path, shown(self.members[end][0]))


class _Row(NamedTuple):
    """A picture of a shard, and all that is kept of its sample."""

    member: Member
    place: str
    folder: str
    caption: Any
    """`None` where nothing is written."""

    @property
    def name(self) -> str:
        """In the shard."""
        return self.place.removeprefix(f"{self.member.shard.path}, ")


def open_shards(
    survey: Survey,
    captions: CaptionsFrom = "auto",
    class_name: str | None = None,
    caption_column: str | None = None,
) -> ShardRows:
    """The rows of a folder's shards, or of the one that the survey is of.

    Args:
        captions: as in `open_folder`; "metadata" are the JSON members.
        caption_column: the entry of these that is the caption; nothing else is read for one then.

    Raises:
        ValueError: a shard is damaged or holds what can't be; the message names it, and the member.
        FileNotFoundError: pictures have no caption.
    """
    ends = _ends(survey, captions, caption_column)
    kinds = frozenset(kind.removeprefix(".") for kind in picture_kinds())
    rows, numbers = list[_Row](), list[tuple[int, str] | None]()
    for file in survey.shards:
        found = list(_rows(file, survey, kinds, ends, caption_column))
        rows += found
        numbers += _numbers_within([row.folder for row in found])
    numbered = _numbers(rows, numbers, survey)
    classes = [
        own or class_name or (row.folder.rpartition("/")[2] if captions == "folder" else "")
        for row, (_, own) in zip(rows, numbered, strict=True)
    ]
    if ends == ("json",):
        classes = [""] * len(rows)
    missing = [row for row, word in zip(rows, classes, strict=True) if row.caption is None and not word]
    if missing or not rows:
        raise FileNotFoundError(_without_captions(survey, missing, len(rows), ends))
    without = (Path(row.member.shard.path, row.name) for row in rows if ends and row.caption is None)
    survey.note("pictures without a text file, whose caption is the name of their folder", without)
    count = len(survey.shards)
    survey.tell(f"{len(rows)} picture{'s' * (len(rows) != 1)} of {count} tar file{'s' * (count != 1)}")
    return ShardRows(
        [row.member for row in rows],
        [word if row.caption is None else row.caption for row, word in zip(rows, classes, strict=True)],
        [row.place for row in rows],
        [repeats for repeats, _ in numbered],
    )


def _ends(survey: Survey, captions: CaptionsFrom, column: str | None) -> Sequence[str]:
    """Ends of the members in which captions may stand, the first of which counts."""
    if column is None:
        return () if captions == "folder" else _ENDS[captions]
    if captions not in ("auto", "metadata"):
        raise ValueError(
            f"caption_column is {column!r:.80}, which is an entry of JSON in the tar files of {survey.root}, but "
            f"captions is {captions!r}. Leave out one of them."
        )
    return _ENDS["metadata"]


def _rows(file: Path, survey: Survey, kinds: frozenset[str], ends: Sequence[str], column: str | None) -> Iterator[_Row]:
    """The pictures of a shard, by name."""
    shard = Shard.of(file)
    taken = []
    for sample in _samples(shard, survey):
        said = next((end for end in ends if end in sample.members), None)
        if picture := _picture(sample, said, kinds, survey):
            taken.append((sample, picture, said))
    taken.sort(key=lambda one: one[0].members[one[1]][0].split("/"))
    folders: dict[str, str] = {}  # one text for all pictures in one
    with shard.open() as opened:
        for sample, picture, said in taken:
            name, member = sample.members[picture]
            folder = _text(name.rpartition("/")[0])
            caption = None if said is None else _caption(sample, said, column, opened, survey)
            yield _Row(member, sample.place(picture), folders.setdefault(folder, folder), caption)


def _samples(shard: Shard, survey: Survey) -> list[_Sample]:
    """The samples of a shard."""
    found: dict[str, _Sample] = {}
    for name, member in members_of(shard):
        *folders, last = name.split("/")
        if any(part.startswith(".") for part in (*folders, last)) or not SYSTEM.isdisjoint(folders):
            survey.note("hidden files", [Path(shard.path, shown(name))])
            continue
        stem, _, end = last.partition(".")
        end = end.lower()
        sample = found.setdefault("/".join((*folders, stem)), _Sample(shard, {}))
        if end in sample.members:
            first = sample.members[end][0]
            said = f"{shown(name)} twice" if first == name else f"{shown(first)} and {shown(name)}, which is one name"
            raise ValueError(f"The shard {shard.path} has {said}. Write it again, with each name once.")
        sample.members[end] = name, member
    return list(found.values())


def _picture(sample: _Sample, said: str | None, kinds: frozenset[str], survey: Survey) -> str | None:
    """The end of the picture of a sample; of what isn't read, the survey takes note."""
    pictures = [end for end in sample.members if end in kinds]
    if len(pictures) > 1:
        names = " and ".join(shown(sample.members[end][0]) for end in pictures[:2])
        raise ValueError(
            f"The shard {sample.shard.path} has two pictures of one name: {names}. Keep one of them, or give them "
            "different names."
        )
    for end in sample.members:
        if pictures and end in (said, *pictures):
            continue
        last = end.rpartition(".")[2]
        if last in _PICKLES:
            survey.note("pickles, which are never opened", [sample.path(end)], warn=True)
        elif last != end and last in kinds:
            why = "pictures with several dots in their names, which end at the first"
            survey.note(why, [sample.path(end)], warn=True)
        elif remedy := unreadable_kind(f".{last}"):
            why = f"pictures of a kind that can't be opened here ({remedy})"
            survey.note(why, [sample.path(end)], warn=True)
        elif pictures:
            survey.note("members beside a picture that aren't read", [sample.path(end)])
        else:
            survey.note("members without a picture", [sample.path(end)])
    return pictures[0] if pictures else None


def _text(name: str) -> str:
    """A name as it may be a caption."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _numbers_within(folders: Sequence[str]) -> list[tuple[int, str] | None]:
    """What kohya's names say of the pictures in these folders of a shard.

    A folder that holds all of them is the root, as that of `tar cf x.tar photos`, unless it is itself one of kohya's.
    """
    parts = {folder: folder.split("/") if folder else [] for folder in folders}
    depth = 0
    while True:
        names = {each[depth] if depth < len(each) else None for each in parts.values()}
        name = next(iter(names), None)
        if len(names) != 1 or name is None or numbered_name(name):
            break
        depth += 1
    found = {folder: numbered_name(each[depth]) if depth < len(each) else None for folder, each in parts.items()}
    return [found[folder] for folder in folders]


def _numbers(
    rows: Sequence[_Row], within: Sequence[tuple[int, str] | None], survey: Survey
) -> Sequence[tuple[int, str | None]]:
    """Repeats and class of each, by kohya's folders: those that the shards lie in, or else those within them."""
    if not survey.numbered and all(within):
        return [one for one in within if one]
    named = {folder for folder in {row.folder for row in rows} if any(map(numbered_name, folder.split("/")))}
    odd = (Path(row.member.shard.path, shown(row.folder)) for row in rows if row.folder in named)
    if survey.numbered:
        survey.note("pictures in numbered folders of tar files that lie in numbered folders, which count", odd, True)
        files = [Path(row.member.shard.path) for row in rows]
        return [(survey.repeats(file), survey.class_of(file)) for file in files]
    survey.note("pictures in numbered folders that repeat nothing, since not every picture lies in one", odd, warn=True)
    return [(1, None)] * len(rows)


def _caption(sample: _Sample, end: str, asked: str | None, file: io.FileIO, survey: Survey) -> Any:
    """Of a text, its first line; of a JSON, an entry, which may be a list."""
    member, place = sample.members[end][1], sample.place(end)
    if member.size > _MOST_TEXT:
        raise ValueError(f"{place} has {member.size} bytes, which is no caption. It may have {_MOST_TEXT}.")
    text = utf8_text(member.read(file), place)
    if end == "json":
        return _of_json(text, place, asked)
    if not first_line(text):
        raise ValueError(f"{place} is empty. Write the caption of the picture of this name into it.")
    if "\n" in text.strip():
        survey.note("text files with more lines than the first, which is the caption", [sample.path(end)], warn=True)
    return first_line(text)


def _of_json(text: str, place: str, asked: str | None) -> Any:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}. Write an object with a caption.") from error
    keys = (asked,) if asked else CAPTION_NAMES
    key = next((key for key in keys if isinstance(said, dict) and key in said), None)
    if key is None:
        names = ", ".join(map(repr, said))[:200] if isinstance(said, dict) else f"{said!r:.80}"
        raise ValueError(f"{place} has no {' or '.join(map(repr, keys))}, but {names or 'nothing'}. Write a caption.")
    words = said[key] if isinstance(said[key], list) else [said[key]]
    if not words or not all(isinstance(one, str) and one.strip() for one in words):
        raise ValueError(f"{place}: {key!r} is {said[key]!r:.80}. Write a text, or a list of texts.")
    return said[key]


def _without_captions(survey: Survey, missing: Sequence[_Row], total: int, ends: Sequence[str]) -> str:
    if not total:
        survey.tell("no pictures")
        return f"The tar files of {survey.root} hold no pictures that can be opened here. Write 1.jpg with 1.txt."
    folder, _, name = missing[0].name.rpartition("/")
    key = "/".join(filter(None, (folder, name.partition(".")[0])))
    wanted = f"{key}.{ends[0]}" if ends else "a folder whose name is the caption"
    return (
        f"{len(missing)} of {total} pictures of {survey.root} have no caption, such as {missing[0].place}. Write that "
        f"into {wanted} of the same tar file."
    )
