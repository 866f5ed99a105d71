"""Runs many trainings as commands of their own: several at a time, none twice, so that a sweep can be stopped."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import write_json
from .failures import DIVERGED_STATUS
from .jsonl import read_object
from .stopping import interrupted_by_signals

Started = Callable[[subprocess.Popen[str]], object]

SETTINGS_FILE = "sweep.json"
DIVERGED_FILE = "diverged.json"
"""In the folder of a run whose loss became no number: what it said. It isn't run again."""


def claim_folder(folder: Path, settings: Mapping[str, Any], *results: str) -> None:
    """Notes what all runs of a sweep have in common, so that runs of another are not taken for this one's.

    Args:
        folder: of the sweep; its runs are folders in it.
        settings: what has to be the same for all runs, as JSON.
        results: names, or patterns of them, of what a run has that isn't trained again.

    Raises:
        ValueError: the folder has finished runs of other settings, or of settings that can't be read; or it can't be
            written.
    """
    file = folder / SETTINGS_FILE
    if file.is_file() and any(found for result in results for found in folder.glob(f"*/{result}")):
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


def read_result(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a finished run wrote.

    Raises:
        ValueError: it is none, isn't there, or lacks one of the keys.
    """
    notes: list[str] = []
    found = read_object(file, notes.append)
    if missing := [key for key in keys if key not in found]:
        why = notes[0] if notes else f"It has no {', '.join(missing)}."
        raise ValueError(f"{file} is damaged. {why} Remove it, and start the same command again.")
    return found


def has_result(file: Path, keys: Sequence[str]) -> bool:
    """Whether `read_result` reads it; a run without it is made again."""
    found = read_object(file, lambda _: None)
    return all(key in found for key in keys)


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
    """Runs what isn't done, in order. A run that diverged is noted in its folder, and the others go on.

    Args:
        at_once: so many processes.

    Raises:
        RuntimeError: one failed in another way; its last words are in the error. None is begun after it.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came; the trainings were ended. What was done stays.
    """
    todo = [one for one in trainings if not (one.is_done(one.folder) or (one.folder / DIVERGED_FILE).is_file())]
    over = threading.Event()
    running: list[subprocess.Popen[str]] = []

    def started(process: subprocess.Popen[str]) -> None:
        running.append(process)
        if over.is_set():
            process.terminate()

    def run(training: Training, number: str) -> None:
        try:
            if not over.is_set():  # else a free worker would begin the next one before the error is told
                _run(training, number, started)
        except BaseException:
            over.set()
            raise

    with interrupted_by_signals(), ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(run, training, f"{number}/{len(todo)}") for number, training in enumerate(todo, start=1)]
        try:
            for one in runs:
                one.result()
        except KeyboardInterrupt:
            over.set()
            for process in running:
                process.terminate()
            raise KeyboardInterrupt("Interrupted. What is done stays: the same command goes on.") from None


def _run(training: Training, number: str, started: Started) -> None:
    command = [sys.executable, str(training.script), *training.flags, "--output_dir", str(training.folder)]
    print(f"{number} {training.folder.name} ...", flush=True)
    done = launch(command, started)
    if done.returncode == DIVERGED_STATUS:
        print(f"{number} {training.folder.name} diverged.", flush=True)
        training.folder.mkdir(parents=True, exist_ok=True)
        write_json(training.folder / DIVERGED_FILE, {"error": done.stderr.rpartition("Error: ")[2].strip()})
    elif done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def launch(command: Sequence[str], started: Started) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, and keeps what it says; `started` gets the process, to end it before."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace") as process:
        started(process)
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
