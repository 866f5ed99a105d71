"""Reads run folders as they are: being written, cut off, damaged, or no run at all. Never raises for what a file holds.

What is missing or broken is told in `Run.notes`, in plain text. Nothing here needs torch. docs/run-folder.md names
every file.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .contents import lora_steps
from .jsonl import Tell, is_number, is_step, is_whole, read_object, read_rows
from .names import (
    ADAPTER_FILE,
    DIFFUSERS_FILE,
    INDEX_FILE,
    LOG_FILE,
    REFERENCES_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_FILE,
    UNMERGED,
    checkpoint_step,
)
from .problems import Notes, gaps, repeated_pictures
from .run import IndexedPicture, PictureKey, ReferencePicture, Run, State, is_text, planned_steps

_FILES = (RUN_FILE, LOG_FILE, INDEX_FILE, REFERENCES_FILE, REPORT_FILE, RESULTS_FILE)
_STILL_WRITING = 120.0
"""A run without its last file counts as being written for so many seconds after its last change."""
_LARGEST_SEED = 2**53
"""Larger ones are no seeds of ours, and browsers round them."""
_LONGEST_NAME, _LONGEST_TEXT = 100, 10_000
"""Letters of a method, and of a text of the index."""


def read_run(path: Path) -> Run:
    """Everything but the pictures themselves."""
    notes = Notes()
    settings = read_object(path / RUN_FILE, notes.add)
    method = settings.get("method")
    log = _read_log(path / LOG_FILE, notes.add)
    pictures = _read_index(path / INDEX_FILE, notes.add)
    last_files = {name: _read_last_file(path, name, settings, log, notes.add) for name in (REPORT_FILE, RESULTS_FILE)}
    state: State = "no run"
    if settings or log or pictures:
        last = last_files[RESULTS_FILE] if is_text(settings) else any(last_files.values())
        state = "finished" if last else "being written" if is_fresh(path) else "cut off"
    run = Run(
        path,
        method if isinstance(method, str) and len(method) <= _LONGEST_NAME else "",
        settings,
        log,
        pictures,
        _read_references(path / REFERENCES_FILE, notes.add),
        last_files[REPORT_FILE],
        last_files[RESULTS_FILE],
        state,
        warnings=repeated_pictures(pictures),
    )
    if state == "no run":
        notes.texts.insert(0, f"{path} holds no run: neither {RUN_FILE} nor a log nor pictures.")
    else:
        for note in gaps(run):
            notes.add(note)
    return replace(run, checkpoints=_checkpoints(run), loras=_loras(path), notes=notes.texts)


def signature(path: Path) -> tuple[tuple[int, int], ...]:
    """Time and size of every file that `read_run` reads; equal while nothing has changed."""
    return tuple(_time_and_size(path / name) for name in (*_FILES, "."))


def is_fresh(path: Path) -> bool:
    """Whether a file of the run has changed lately."""
    return time.time() - last_change(path) < _STILL_WRITING


def last_change(path: Path) -> float:
    """When a file of the run was written last, in seconds since the epoch; 0 where it has none.

    The folder's own time says nothing: a note that is kept in it sets it, too.
    """
    return max(_time_and_size(path / name)[0] for name in _FILES) / 1e9


def is_run(path: Path) -> bool:
    """Whether a folder looks like a run."""
    return any((path / name).is_file() for name in (RUN_FILE, LOG_FILE, INDEX_FILE))


def find_runs(path: Path, depth: int = 2) -> list[Path]:
    """The run folders that a path means: those at or below it, or itself, to say what is wrong."""
    return _below(path, depth) or [path]


def _below(path: Path, depth: int) -> list[Path]:
    if is_run(path):
        return [path]
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [found for folder in folders for found in _below(folder, depth - 1)] if depth else []


def _read_log(path: Path, tell: Tell) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for number, row in read_rows(path, tell):
        if not is_step(row.get("step")):
            tell(f"{path.name}, line {number}: no step; left out.")
            continue
        rows[row["step"]] = {key: value for key, value in row.items() if is_number(value)}
    return [rows[step] for step in sorted(rows)]


def _read_index(path: Path, tell: Tell) -> dict[PictureKey, IndexedPicture]:
    there = _files_below(path.parent)
    pictures: dict[PictureKey, IndexedPicture] = {}
    gone: list[str] = []
    for number, row in read_rows(path, tell):
        picture = _picture(row)
        if picture is None:
            tell(f"{path.name}, line {number}: step, prompt, seed or file is missing or wrong; left out.")
        elif picture.file not in there:
            gone.append(picture.file)
        else:
            pictures[picture.key] = picture
    outside = [file for file in gone if file.startswith(("/", "\\")) or ".." in Path(file).parts]
    if outside:
        tell(f"{path.name} names {len(outside)} files outside the run, such as {outside[0]!r}; refused.")
    if len(gone) > len(outside):
        missing = next(file for file in gone if file not in outside)
        tell(f"{len(gone) - len(outside)} pictures of {path.name} are not there, such as {missing!r}.")
    return pictures


def _picture(row: dict[str, Any]) -> IndexedPicture | None:
    """The picture of a line of the index; `None` where a part is missing or of another type."""
    prompt, seed, step = row.get("prompt"), row.get("seed"), row.get("step")
    variant, file, digest = row.get("merge_approach", UNMERGED), row.get("file"), row.get("sha256", "")
    if not (isinstance(prompt, str) and isinstance(variant, str) and isinstance(file, str) and isinstance(digest, str)):
        return None
    if not (is_whole(seed, _LARGEST_SEED) and is_step(step)):
        return None
    if max(len(prompt), len(variant), len(file), len(digest)) > _LONGEST_TEXT:
        return None
    return IndexedPicture(PictureKey(prompt, seed, variant, step), file, digest)


def _files_below(folder: Path) -> set[str]:
    """Paths of the files in `folder` and in the folders in it, relative to it. Links to folders aren't followed."""
    found: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    with os.scandir(entry.path) as inner:
                        found.update(f"{entry.name}/{one.name}" for one in inner)
                else:
                    found.add(entry.name)
    except OSError:
        pass  # the index is then told to be missing, or its pictures are
    return found


def _read_references(path: Path, tell: Tell) -> dict[str, ReferencePicture]:
    rows = [row for _, row in read_rows(path, tell)] if path.exists() else []
    return {
        row["prompt"]: ReferencePicture(row["file"], str(row.get("seen", "")))
        for row in rows
        if isinstance(row.get("prompt"), str) and isinstance(row.get("file"), str)
    }


def _read_last_file(
    folder: Path, name: str, settings: dict[str, Any], log: list[dict[str, Any]], tell: Tell
) -> dict[str, Any]:
    """What a run writes at its very end, or nothing: not yet, or it is left from a run that this one replaced.

    That is so where it is older than run.json, which a run writes at its start, and the log has not come to the end.
    One of both alone proves nothing: a copied folder has any times, and a damaged log can lack its end.
    """
    path = folder / name
    if not path.exists():
        return {}
    content = read_object(path, tell)
    steps, done = planned_steps(settings, content), log[-1]["step"] if log else 0
    if steps is not None and done < steps and _time_and_size(path)[0] < _time_and_size(folder / RUN_FILE)[0]:
        tell(f"{name} is of an earlier run in this folder: {RUN_FILE} is newer, and {done} of {steps} steps are done.")
        return {}
    return content


def _time_and_size(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return 0, -1
    return stat.st_mtime_ns, stat.st_size


def _checkpoints(run: Run) -> list[int]:
    steps: set[int] = set()
    try:
        with os.scandir(run.path) as entries:
            for entry in entries:
                step = checkpoint_step(entry.name)
                if step is not None and entry.is_dir():
                    steps.add(step)
    except OSError:
        pass  # the folder is then told to hold no run
    if run.state == "finished" and (run.path / ADAPTER_FILE).is_file():
        steps.add(run.last_step)
    return sorted(steps)


def _loras(path: Path) -> list[int]:
    return [step for step, folder in lora_steps(path).items() if (folder / DIFFUSERS_FILE).is_file()]
