"""JSON of a run folder: written a line at a time, read whatever a kill, a full disk or an editor left of it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from .atomic import replacing

logger = logging.getLogger("reslora_sd")

MOST_BYTES = 64_000_000
"""Larger files are not read: a log of a million steps is smaller."""

Tell = Callable[[str], None]
"""Is called with a sentence for each thing that is missing or broken, such as `logger.warning`."""


def read_rows(path: Path, tell: Tell) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows, which are JSON objects; never raises for what the file holds.

    A line that holds no JSON object is told and left out; a last line without its end is still being written. NaN and
    infinite numbers are no JSON: they become `None`. Halves of surrogate pairs become question marks.
    """
    text = _text(path, tell) or ""
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield number, row
        elif number < len(lines):
            tell(f"{path.name}, line {number} is broken: {line[:60]!r}; left out.")
        else:
            tell(f"The last line of {path.name} is cut off, or still being written; left out.")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a file; what is broken is warned of."""
    return [row for _, row in read_rows(path, logger.warning)]


def read_object(path: Path, tell: Tell) -> dict[str, Any]:
    """The JSON object that a file is, read as `read_rows` does; an empty one, told, where it is none."""
    text = _text(path, tell)
    if text is None:
        return {}
    try:
        value = _parse(text)
    except (ValueError, RecursionError) as error:
        tell(f"{path.name} is no JSON: {str(error)[:120]}.")
        return {}
    if not isinstance(value, dict):
        tell(f"{path.name} holds no JSON object.")
        return {}
    return value


def is_step(value: object) -> TypeGuard[int]:
    """A whole number from 0 to a thousand million: more is damage."""
    return is_whole(value, 10**9)


def is_whole(value: object, most: int) -> TypeGuard[int]:
    """A whole number from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def is_number(value: object) -> bool:
    """A number that can be plotted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a whole file in one piece."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_line(row) for row in rows)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a line. NaN has no place in JSON and raises `ValueError`, with nothing written."""
    line = _line(row)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(line)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row), allow_nan=False) + "\n"


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None  # 1e999 is infinite


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def _parse(text: str) -> Any:
    value = _DECODER.decode(text)
    return _clean(value) if "\\ud" in text or "\\uD" in text else value


def _clean(value: Any) -> Any:
    """Without halves of surrogate pairs, which JSON can spell and no file or page can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return {_clean(key): _clean(one) for key, one in value.items()} if isinstance(value, dict) else value


def _text(path: Path, tell: Tell) -> str | None:
    try:
        if path.stat().st_size > MOST_BYTES:
            tell(f"{path.name} has {path.stat().st_size / 1e6:.0f} MB, more than is read here; left out.")
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        tell(f"There is no {path.name}.")
    except (OSError, ValueError) as error:
        tell(f"{path.name} can't be read: {type(error).__name__}.")
    return None
