"""Files that may be damaged, huge, or somewhere else than they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST_BYTES = 64_000_000
_MOST_NOTES = 20
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""One for all lines; NaN and Infinity are no JSON, and count as missing."""


class Notes:
    """What was found missing or broken, each thing once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        """Adds a note; beyond twenty only their number."""
        if text in self.texts:
            return
        if len(self.texts) < _MOST_NOTES:
            self.texts.append(text)
            return
        self._more += 1
        last = f"... and {self._more} more."
        self.texts[_MOST_NOTES:] = [last]


def inside(folder: Path, relative: str) -> Path:
    """The file that `relative` names below `folder`, links followed.

    Raises:
        ValueError: it lies outside.
        OSError: it isn't there.
    """
    root = folder.resolve()
    path = (root / relative).resolve(strict=True)
    if not path.is_relative_to(root) or path == root:
        raise ValueError(f"{relative!r} lies outside {folder.name}; refused.")
    return path


def read_json(path: Path, notes: Notes) -> dict[str, Any]:
    """A JSON object, or an empty one and a note."""
    text = _text(path, notes)
    if text is None:
        return {}
    try:
        value = _parse(text)
    except (ValueError, RecursionError) as error:
        notes.add(f"{path.name} is no JSON: {str(error)[:120]}.")
        return {}
    if not isinstance(value, dict):
        notes.add(f"{path.name} holds no JSON object.")
        return {}
    return value


def read_lines(path: Path, notes: Notes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and JSON objects. Broken lines are noted; a last line without its end is still being written."""
    text = _text(path, notes) or ""
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
            notes.add(f"{path.name}, line {number} is broken: {line[:60]!r}; left out.")
        else:
            notes.add(f"The last line of {path.name} is cut off, or still being written; left out.")


def _parse(text: str) -> Any:
    value = _DECODER.decode(text)
    return _clean(value) if "\\ud" in text or "\\uD" in text else value


def _clean(value: Any) -> Any:
    """Without halves of surrogate pairs, which JSON can spell and no page can be sent."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return {_clean(key): _clean(one) for key, one in value.items()} if isinstance(value, dict) else value


def _text(path: Path, notes: Notes) -> str | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            notes.add(f"{path.name} has {path.stat().st_size / 1e6:.0f} MB, more than is read here; left out.")
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.add(f"There is no {path.name}.")
    except (OSError, ValueError) as error:
        notes.add(f"{path.name} can't be read: {type(error).__name__}.")
    return None
