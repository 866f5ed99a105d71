"""Checkpoints that are complete or not there: each holds a list of its files, which is checked before it is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from .atomic import sync, write_json
from .jsonl import read_object
from .names import MANIFEST_FILE, checkpoint_step

UNFINISHED = re.compile(r"\.checkpoint-\d+(\.old)?\.tmp|\.saving\.tmp")
"""Names of folders of checkpoints that are still being written or removed, or were when their process was killed."""

_BLOCK = 1 << 20

SAVING = ".saving.tmp"
"""Where transformers' Trainer writes a checkpoint, which then gets its place."""


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if checkpoint_step(path.name) is not None and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was saved after."""
    step = checkpoint_step(checkpoint.name)
    assert step is not None
    return step


def find_checkpoint(folder: Path, asked: str) -> Path:
    """The checkpoint that `--resume_from_checkpoint` means: `latest`, a name in the output folder, or a path.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a part of it is missing or damaged.
    """
    checkpoint = _find(folder, asked)
    check_checkpoint(checkpoint)
    return checkpoint


def _find(folder: Path, asked: str) -> Path:
    if asked == "latest":
        there = list_checkpoints(folder)
        if not there:
            raise FileNotFoundError(
                f"{folder} has no checkpoint to resume from. Leave --resume_from_checkpoint out; where a run is there, "
                "--overwrite_output_dir replaces it."
            )
        return there[-1]
    for path in (folder / asked, Path(asked)):
        if checkpoint_step(path.name) is not None and path.is_dir():
            return path
    have = ", ".join(path.name for path in list_checkpoints(folder)) or "none"
    raise FileNotFoundError(f"There is no checkpoint {asked!r}; {folder} has: {have}.")


def unfinished(target: Path) -> Path:
    """The name under which the checkpoint `target` is written."""
    return target.with_name(f".{target.name}.tmp")


def publish(temporary: Path, target: Path, **about: Any) -> None:
    """Gives a checkpoint that was written under another name the list of its files, and then its own name.

    Args:
        about: noted beside the list.
    """
    files = {
        path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(temporary.rglob("*"))
        if path.is_file()
    }
    for path in temporary.rglob("*"):
        sync(path)
    manifest = {"step": step_of(target), **about, "files": files}
    write_json(temporary / MANIFEST_FILE, {**manifest, "sha256": _digest_of(manifest)})
    if target.exists():
        remove_checkpoint(target)
    os.replace(temporary, target)
    sync(target.parent)


def check_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Whether a checkpoint is as it was written.

    Returns:
        what its list says of it.

    Raises:
        ValueError: the list, or a file in it, is missing or damaged; the message names the file.
    """
    notes: list[str] = []
    manifest = read_object(checkpoint / MANIFEST_FILE, notes.append)
    files, digest = manifest.get("files"), manifest.pop("sha256", None)
    if not isinstance(files, dict) or manifest.get("step") != step_of(checkpoint) or digest != _digest_of(manifest):
        why = " ".join(notes) or f"{MANIFEST_FILE} is not the list of files that was written."
        raise ValueError(refusal(checkpoint, f"{why} It was damaged, renamed, or written by an older version."))
    for name, noted in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(refusal(checkpoint, f"{name} is missing."))
        if noted != {"bytes": path.stat().st_size, "sha256": _digest(path)}:
            raise ValueError(refusal(checkpoint, f"{name} is damaged: it is not the file that was written."))
    return manifest


def refusal(checkpoint: Path, why: str) -> str:
    """What the user reads where a checkpoint can't be resumed from: why, and what to do."""
    others = ", ".join(path.name for path in list_checkpoints(checkpoint.parent) if path.name != checkpoint.name)
    advice = f"Resume from another one ({others})" if others else "Start anew with --overwrite_output_dir"
    return f"{checkpoint} can't be resumed from. {why} {advice}."


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint so that no half of it is ever taken for one."""
    gone = checkpoint.with_name(f".{checkpoint.name}.old.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(checkpoint, gone)
    shutil.rmtree(gone)


def remove_oldest(folder: Path, keep: int | None, spare: Path | None = None) -> None:
    """Removes all checkpoints but the newest `keep`, and `spare`; `None` or 0 keeps all."""
    for old in list_checkpoints(folder)[:-keep] if keep and keep > 0 else ():
        if old != spare:
            remove_checkpoint(old)


def _digest_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
