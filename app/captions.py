"""Captions that people upload beside their pictures: metadata.jsonl, metadata.csv, cat.txt, or one captions.txt."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from reslora_sd.diffusion.pictures import CAPTIONS_FILE, first_line, metadata_rows, read_utf8

TABLES = (CAPTIONS_FILE, "metadata.csv")
_TEXT_COLUMNS = ("text", "caption", "prompt")
LONGEST = 1000
"""Letters of a caption that are kept."""
_LINE = re.compile(r"\s*[\t:|,;]\s*")
"""What stands between a picture's name and its caption in one file of all captions."""


def read_captions(files: Collection[Path], pictures: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Captions by the name of their picture, and what was left out, in words.

    Args:
        files: those among the uploads that may hold captions.
        pictures: names of the pictures.
    """
    found: dict[str, str] = {}
    notes: list[str] = []
    for file in sorted(files, key=lambda one: one.name not in TABLES):  # a text of its own wins over a table
        others: list[str] = []
        try:
            for name, text in _rows(file, pictures):
                if name in pictures and text.strip():
                    found[name] = text.strip()[:LONGEST]
                else:
                    others.append(name)
        except ValueError as error:
            notes.append(f"{error}. What comes after it in {file.name!r} was left out.".replace("..", "."))
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            notes.append(f"{file.name!r} names {others[0]!r:.80}{more}, without a picture or without a text.")
    return found, notes


def _rows(file: Path, pictures: Collection[str]) -> Iterator[tuple[str, str]]:
    """Names of pictures and their captions; a name without a caption has an empty one."""
    if file.name == CAPTIONS_FILE:
        for _, row in metadata_rows(file, file.name):
            yield _base(row["file_name"]), row["text"] if isinstance(row.get("text"), str) else ""
    elif file.suffix.lower() == ".csv":
        yield from _csv_rows(file)
    else:
        yield from _text_rows(file, pictures)


def _csv_rows(file: Path) -> Iterator[tuple[str, str]]:
    """A table with a header, or names and captions without one."""
    reader = csv.reader(io.StringIO(read_utf8(file, repr(file.name)), newline=""))
    name_at, text_at = 0, 1
    try:
        for number, cells in enumerate(reader):
            words = [cell.strip().lower() for cell in cells]
            if number == 0 and {"file_name", *_TEXT_COLUMNS} & set(words):
                name_at = words.index("file_name") if "file_name" in words else 0
                text_at = next((words.index(word) for word in _TEXT_COLUMNS if word in words), 1)
            elif any(words):
                yield (
                    _base(cells[name_at]) if name_at < len(cells) else "",
                    cells[text_at] if text_at < len(cells) else "",
                )
    except csv.Error as error:
        raise ValueError(f"{file.name!r}, line {reader.line_num}: {error}") from error


def _text_rows(file: Path, pictures: Collection[str]) -> Iterator[tuple[str, str]]:
    """`cat.txt` for `cat.png`, its first line; or a line a picture: its name, then a tab, colon, comma or |."""
    text = read_utf8(file, repr(file.name))
    own = [name for name in pictures if Path(name).stem == file.stem]
    if own:
        yield from ((name, first_line(text)) for name in own)
        return
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    names = sorted(pictures, key=len, reverse=True)  # a.png stands at the start of a.png.png, too
    for number, line in enumerate(lines):
        name = next((one for one in names if line.startswith(one) and _LINE.match(line, len(one))), None)
        if name is not None:
            yield name, _LINE.sub("", line[len(name) :], count=1)
        elif number > 0 or len(lines) == 1:  # the first line may be a header
            yield line[:80], ""
    if not lines:
        yield file.name, ""


def _base(name: str) -> str:
    """The file's own name: uploads have no folders."""
    return PurePosixPath(name.replace("\\", "/")).name
