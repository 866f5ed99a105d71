"""Reads rows of a task: local JSON lines, or a data set of the Hub."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_json_lines(path: str, columns: Sequence[str], limit: int | None = None) -> list[Row]:
    """Rows of a file with one JSON object a line; empty lines are passed over.

    Args:
        columns: every row must have them.
        limit: read the first so many.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a broken line (its number is said), a missing column, no row.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}. Give JSON lines with the columns {', '.join(columns)}.")
    rows: list[Row] = []
    with Path(path).open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if limit is not None and len(rows) >= limit:
                    break
                if line.strip():
                    rows.append(_row(line, f"{path}, line {number}", columns))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 text: {error}. Save it as UTF-8.") from error
    if not rows:
        raise ValueError(f"{path} has no row. Give JSON lines with the columns {', '.join(columns)}.")
    return rows


def read_hub(name: str, config: str | None, split: str, columns: Sequence[str], limit: int | None = None) -> list[Row]:
    """Rows of a data set of the Hub; needs the internet the first time.

    Raises:
        ValueError: it can't be loaded, or lacks a column.
    """
    from datasets import load_dataset

    try:
        data = load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many kinds: no network, no such name, no such split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"The data set {name} ({split}) can't be loaded from the Hub: {reason}. Give local files with --train_file "
            "and --test_file."
        ) from error
    _check_columns(data.column_names, columns, name)
    return list(data.select(range(min(limit or len(data), len(data)))))


def choose(rows: list[Row], number: int | None, seed: int) -> list[Row]:
    """So many rows at random, in their order; all of them where no number is given."""
    if number is None or number >= len(rows):
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), number))]


def keep_apart(rows: list[Row], number: int) -> tuple[list[Row], list[Row]]:
    """The rows without `number` of them, and these: the same ones for every seed of a run.

    Raises:
        ValueError: none would be left.
    """
    if number >= len(rows):
        raise ValueError(
            f"--validation_samples is {number}, but there are {len(rows)} training rows. Keep fewer apart."
        )
    apart = set(random.Random(0).sample(range(len(rows)), number))
    return [row for i, row in enumerate(rows) if i not in apart], [rows[i] for i in sorted(apart)]


def _row(line: str, place: str, columns: Sequence[str]) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}. It reads {line.strip()[:80]!r}. Mend or remove it.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place} holds {line.strip()[:80]!r}. It must be an object with {', '.join(columns)}.")
    _check_columns(list(row), columns, place)
    return row


def _check_columns(found: Sequence[str], columns: Sequence[str], place: str) -> None:
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(
            f"{place} lacks {', '.join(map(repr, missing))}; it has {', '.join(map(repr, found))}. "
            f"The task needs the columns {', '.join(columns)}."
        )
