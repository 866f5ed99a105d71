"""Runs many trainings as commands of their own: several at a time, none twice, so that a sweep can be stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


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
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
