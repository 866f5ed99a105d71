"""Paths that a file names: they must not lead out of its folder."""

from __future__ import annotations

from pathlib import Path


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
