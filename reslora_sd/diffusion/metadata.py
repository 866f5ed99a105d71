"""Reads metadata.jsonl, metadata.csv and metadata.parquet: a row a picture, and where each row stands."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pictures import CAPTIONS_FILE, metadata_rows, read_utf8

METADATA = (CAPTIONS_FILE, "metadata.csv", "metadata.parquet")
"""What `datasets` reads captions from (its folder_based_builder.py)."""
_FILE_NAME = "file_name"
MISSING = frozenset(["", "None", "nan", "NaN", "NAN", "null", "NULL", "NA", "N/A", "n/a", "<NA>", "#N/A"])
"""Cells of a CSV that stand for nothing, as in pandas."""


@dataclass(frozen=True)
class Row:
    """One row: its values by column, and the file and line where it stands. Pictures are absolute paths."""

    place: str
    values: dict[str, Any]

    @property
    def picture(self) -> Path:
        return Path(self.values["image"])


def read_metadata(table: Path) -> list[Row]:
    """The rows of a metadata file. `file_name` becomes `image`, and `x_file_name` becomes `x`, as in `datasets`.

    Raises:
        FileNotFoundError: a picture isn't there.
        ValueError: the file can't be read; the message names the line.
    """
    read = {".csv": _csv_rows, ".jsonl": metadata_rows, ".parquet": _parquet_rows}[table.suffix]
    word = "row" if table.suffix == ".parquet" else "line"
    rows = []
    for number, values in read(table):
        place = f"{table}, {word} {number}"
        pictures, others = {}, {}
        for name, value in values.items():
            if name == _FILE_NAME or (name.endswith("_" + _FILE_NAME) and isinstance(value, str)):
                pictures[name[: -len("_" + _FILE_NAME)] or "image"] = _picture(table.parent, value, place)
            else:
                others[name] = value
        rows.append(Row(place, {"image": pictures["image"], **others, **pictures}))
    if not rows:
        raise ValueError(f"{table} has no rows. Write one a picture, with file_name and text.")
    return rows


def _picture(folder: Path, name: Any, place: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{place}: the file_name is {name!r:.80}. Write that of a picture.")
    path = os.path.normpath(name)
    if not os.path.isfile(folder / path):
        path = os.path.normpath(name.replace("\\", "/"))  # written on Windows
    if "://" in name or os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise ValueError(f"{place}: {name!r:.80} lies outside {folder}. Name pictures as seen from the metadata file.")
    if not os.path.isfile(folder / path):  # no error for names that no file can have
        raise FileNotFoundError(f"{place}: there is no picture {folder / f'{path:.200}'}.")
    return str(folder / path)


def _csv_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(read_utf8(table), newline=""), strict=True)
    try:
        header = next(reader, [])
        if _FILE_NAME not in header:
            raise ValueError(
                f"{table}, line 1: the columns are {header!r:.80}, none of them file_name. Write a first line such as "
                "file_name,text, with commas between the columns."
            )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{table}, line {reader.line_num}: there are {len(cells)} values for {len(header)} columns. Put a "
                    f'text that holds a comma between double quotes: "a cat, asleep".'
                )
            values = {name: None if cell in MISSING else cell for name, cell in zip(header, cells, strict=True) if name}
            yield reader.line_num, values
    except csv.Error as error:
        raise ValueError(
            f"{table}, line {reader.line_num}: {error}. Close every double quote, and write one inside a text twice."
        ) from error


def _parquet_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(table).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{table} can't be read as parquet: {error}. Write it again.") from error
    for number, row in enumerate(rows, 1):
        if _FILE_NAME not in row:
            raise ValueError(f"{table} has the columns {', '.join(row):.80}, none of them file_name.")
        yield number, row
