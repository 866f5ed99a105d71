"""Runs many trainings as commands of their own: several at a time, none twice, so that a sweep can be stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import write_json
from .jsonl import read_object

SETTINGS_FILE = "sweep.json"


def claim_folder(folder: Path, settings: Mapping[str, Any], result: str) -> None:
    """Notes what all runs of a sweep have in common, so that runs of another are not taken for this one's.

    Args:
        folder: of the sweep; its runs are folders in it.
        settings: what has to be the same for all runs, as JSON.
        result: name of the file that a finished run has.

    Raises:
        ValueError: the folder has finished runs of other settings, or of settings that can't be read; or it can't be
            written.
    """
    file = folder / SETTINGS_FILE
    if file.is_file() and any(folder.glob(f"*/{result}")):
        notes: list[str] = []
        found = read_object(file, notes.append)
        if notes:
            raise ValueError(
                f"{notes[0]} So nobody knows which settings the runs in {folder} have. Choose another --output_dir, "
                "or delete that one."
            )
        for key in (*settings, *found):
            if found.get(key) != settings.get(key):
                raise ValueError(
                    f"{folder} has runs with {key} {found.get(key)}, and not {settings.get(key)}. "
                    "Choose another --output_dir, or delete that one."
                )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, dict(settings))
    except OSError as error:
        raise ValueError(f"--output_dir {folder} can't be written: {error}. Choose another folder.") from error


def read_result(file: Path) -> dict[str, Any]:
    """The JSON object that a file of a sweep is.

    Raises:
        ValueError: it is none, or isn't there.
    """
    notes: list[str] = []
    found = read_object(file, notes.append)
    if notes:
        raise ValueError(f"{file}: {notes[0]} Remove it, and the run that it belongs to is made again.")
    return found


def has_result(file: Path) -> bool:
    """Whether a run's file is there and can be read: a run without it is made again."""
    return bool(read_object(file, lambda _: None))


@dataclass(frozen=True)
class Training:
    """One command of a sweep."""

    folder: Path
    """Its output folder."""
    script: Path
    flags: Sequence[str]
    is_done: Callable[[Path], bool]
    """Whether the folder holds what the command would make."""


def run_all(trainings: Sequence[Training], at_once: int = 1) -> None:
    """Runs what isn't done, in order.

    Args:
        at_once: so many processes.

    Raises:
        RuntimeError: one failed; its last words are in the error. What was done stays.
    """
    todo = [training for training in trainings if not training.is_done(training.folder)]
    with ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(_run, training, f"{number}/{len(todo)}") for number, training in enumerate(todo, start=1)]
        try:
            for run in runs:
                run.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(training: Training, number: str) -> None:
    command = [sys.executable, str(training.script), *training.flags, "--output_dir", str(training.folder)]
    print(f"{number} {training.folder.name} ...", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
