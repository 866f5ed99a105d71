"""Paths that a file names: they must not lead out of its folder, nor tell strangers of this machine's."""

from __future__ import annotations

import os
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


def public_name(value: str) -> str:
    """The last part alone of a path that is absolute, or there on this machine; anything else as it is."""
    is_path = os.path.isabs(value) or ("/" in value and os.path.exists(value))
    return Path(value).name if is_path else value
