"""Reads run folders as they are: being written, cut off, damaged, or no run at all. Never raises for what a file holds.

What is missing or broken is told in `Run.notes`, in plain text. Nothing here needs torch. README.md, "The run folder",
names every file.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from .files import Notes, read_json, read_lines
from .findings import note_gaps, repeated
from .run import UNMERGED, Key, Picture, Real, Run, is_number, is_step

_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
_FILES = ("run.json", "log.jsonl", "validation/index.jsonl", "validation/real.jsonl", "merge_report.json")
_STILL_WRITING = 120.0
"""A run without its last file counts as being written for so many seconds after its last change."""


def read_run(path: Path) -> Run:
    """Everything but the pictures themselves."""
    notes = Notes()
    run = Run(path)
    run.settings = read_json(path / "run.json", notes)
    method = run.settings.get("method")
    run.method = method if isinstance(method, str) and method else ""
    run.log = _read_log(path / "log.jsonl", notes)
    run.pictures = _read_index(path / "validation", notes)
    run.real = _read_real(path / "validation" / "real.jsonl", notes)
    run.report = read_json(path / "merge_report.json", notes) if (path / "merge_report.json").exists() else {}
    run.state = _state(run)
    run.checkpoints = _checkpoints(run)
    run.repeated = repeated(run.pictures)
    note_gaps(run, notes)
    run.notes = notes.texts
    return run


def signature(path: Path) -> tuple[tuple[int, int], ...]:
    """Time and size of every file that `read_run` reads; equal while nothing has changed."""
    found = []
    for name in (*_FILES, "."):
        try:
            stat = (path / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except (OSError, ValueError):
            found.append((0, -1))
    return tuple(found)


def is_fresh(path: Path) -> bool:
    """Whether a file of the run has changed lately."""
    changed = max(time_ns for time_ns, _ in signature(path))
    return time.time() - changed / 1e9 < _STILL_WRITING


def is_run(path: Path) -> bool:
    """Whether a folder looks like a run."""
    return any((path / name).is_file() for name in ("run.json", "log.jsonl", "validation/index.jsonl"))


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


def _read_log(path: Path, notes: Notes) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for number, row in read_lines(path, notes):
        if not is_step(row.get("step")):
            notes.add(f"log.jsonl, line {number}: no step; left out.")
            continue
        rows[row["step"]] = {key: value for key, value in row.items() if is_number(value)}
    return [rows[step] for step in sorted(rows)]


def _read_index(folder: Path, notes: Notes) -> dict[Key, Picture]:
    there = _files_below(folder)
    pictures: dict[Key, Picture] = {}
    gone: list[str] = []
    for number, row in read_lines(folder / "index.jsonl", notes):
        prompt, seed, kind = row.get("prompt"), row.get("seed"), row.get("merge_approach", UNMERGED)
        file, digest = row.get("file"), row.get("sha256", "")
        if not (
            isinstance(prompt, str) and isinstance(seed, int) and isinstance(kind, str) and isinstance(file, str)
        ) or not (isinstance(digest, str) and is_step(row.get("step"))):
            notes.add(f"index.jsonl, line {number}: step, prompt, seed or file is missing or wrong; left out.")
        elif file not in there:
            gone.append(file)
        else:
            key = Key(prompt, seed, kind, row["step"])
            pictures[key] = Picture(key, file, digest)
    outside = [file for file in gone if file.startswith(("/", "\\")) or ".." in Path(file).parts]
    if outside:
        notes.add(f"index.jsonl names {len(outside)} files outside the run, such as {outside[0]!r}; refused.")
    if len(gone) > len(outside):
        missing = next(file for file in gone if file not in outside)
        notes.add(f"{len(gone) - len(outside)} pictures of index.jsonl are not there, such as {missing!r}.")
    return pictures


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


def _read_real(path: Path, notes: Notes) -> dict[str, Real]:
    rows = [row for _, row in read_lines(path, notes)] if path.exists() else []
    return {
        row["prompt"]: Real(row["file"], str(row.get("seen", "")))
        for row in rows
        if isinstance(row.get("prompt"), str) and isinstance(row.get("file"), str)
    }


def _state(run: Run) -> str:
    if not run.settings and not run.log and not run.pictures:
        return "no run"
    if run.report:
        return "finished"
    return "being written" if is_fresh(run.path) else "cut off"


def _checkpoints(run: Run) -> list[int]:
    steps: set[int] = set()
    try:
        with os.scandir(run.path) as entries:
            for entry in entries:
                match = _CHECKPOINT.fullmatch(entry.name)
                if match and entry.is_dir():
                    steps.add(int(match.group(1)))
    except OSError:
        pass
    if run.state == "finished" and (run.path / "reslora_adapter.safetensors").is_file():
        steps.add(run.last_step)
    return sorted(steps)
