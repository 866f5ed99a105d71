"""Runs many trainings as commands of their own: several at a time, none twice, so that a sweep can be stopped."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .atomic import write_json
from .failures import DIVERGED_STATUS
from .jsonl import read_object
from .lock import release
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


@dataclass(frozen=True)
class Failure:
    """A training that ended with an error."""

    training: Training
    said: str
    """Its command and its last words."""


@dataclass(frozen=True)
class Launching:
    """How the trainings of a sweep are started."""

    launcher: Sequence[str] = (sys.executable,)
    """What gets the script and its flags, such as `accelerate launch`."""
    devices: Sequence[str] = ()
    """CUDA_VISIBLE_DEVICES of the processes that run at once; none leave it as it is."""
    keep_going: bool = False
    """Whether the others go on after one that failed."""


def run_all(trainings: Sequence[Training], at_once: int = 1, launching: Launching | None = None) -> list[Failure]:
    """Runs what isn't done, in order. A run that diverged is noted in its folder, and the others go on.

    What another sweep trains at the moment is left to it, and looked at again in the end: nothing is trained twice.

    Args:
        at_once: so many processes.

    Returns:
        what failed, where the others were to go on.

    Raises:
        RuntimeError: one failed in another way, and the others weren't to go on; its last words are in the error. None
            is begun after it.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came; the trainings were ended. What was done stays.
    """
    todo = [one for one in trainings if not is_over(one)]
    sweep = _Sweep(launching or Launching(), at_once)
    numbered = [(one, f"{number}/{len(todo)}") for number, one in enumerate(todo, start=1)]
    with interrupted_by_signals(), ThreadPoolExecutor(at_once) as pool:
        try:
            left: list[tuple[Training, str]] = []
            for job in [pool.submit(sweep.run, *one, wait=False) for one in numbered]:
                left += job.result()
            for job in [pool.submit(sweep.run, *one, wait=True) for one in left]:
                job.result()
        except KeyboardInterrupt:
            sweep.stop()
            raise KeyboardInterrupt("Interrupted. What is done stays: the same command goes on.") from None
    return sweep.failures


def is_over(training: Training) -> bool:
    """Whether it was done, or diverged: it isn't run again."""
    return training.is_done(training.folder) or (training.folder / DIVERGED_FILE).is_file()


class _Sweep:
    """What the threads of `run_all` share."""

    def __init__(self, launching: Launching, at_once: int) -> None:
        self.launching = launching
        self.failures: list[Failure] = []
        self._over = threading.Event()
        self._running: list[subprocess.Popen[str]] = []
        self._devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for place in range(at_once):
            self._devices.put(launching.devices[place % len(launching.devices)] if launching.devices else None)

    def stop(self) -> None:
        """Ends the trainings that run, and begins no other."""
        self._over.set()
        for process in self._running:
            process.terminate()

    def run(self, training: Training, number: str, wait: bool) -> list[tuple[Training, str]]:
        """Makes one; gives it back where another sweep is at it and `wait` is false."""
        try:
            if self._over.is_set():  # else a free worker would begin the next one before an error is told
                return []
            with self._held(training.folder, wait) as held:
                if not held:
                    return [] if wait else [(training, number)]
                if not self._over.is_set() and not is_over(training):
                    self._launch(training, number)
        except BaseException:
            self._over.set()
            raise
        return []

    @contextmanager
    def _held(self, folder: Path, wait: bool) -> Iterator[bool]:
        """Whether this sweep alone works at the folder; with `wait`, once it does, or is stopped.

        The lock lies beside the folder, as the training holds the one inside it.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"), thread_local=False)
        while not self._over.is_set():
            try:
                lock.acquire(timeout=1 if wait else 0)
            except Timeout:
                if wait:
                    continue
                break
            try:
                yield True
            finally:
                release(lock, Path(lock.lock_file))
            return
        yield False

    def _launch(self, training: Training, number: str) -> None:
        device = self._devices.get()
        try:
            command = [*self.launching.launcher, str(training.script), *training.flags]
            command += ["--output_dir", str(training.folder)]
            print(f"{number} {training.folder.name} ...", flush=True)
            more = {} if device is None else {"environment": {**os.environ, "CUDA_VISIBLE_DEVICES": device}}
            self._judge(training, number, command, launch(command, self._started, **more))
        finally:
            self._devices.put(device)

    def _started(self, process: subprocess.Popen[str]) -> None:
        self._running.append(process)
        if self._over.is_set():
            process.terminate()

    def _judge(
        self, training: Training, number: str, command: Sequence[str], done: subprocess.CompletedProcess[str]
    ) -> None:
        if done.returncode == DIVERGED_STATUS:
            print(f"{number} {training.folder.name} diverged.", flush=True)
            training.folder.mkdir(parents=True, exist_ok=True)
            write_json(training.folder / DIVERGED_FILE, {"error": done.stderr.rpartition("Error: ")[2].strip()})
        elif done.returncode:
            said = f"{' '.join(command)} failed:\n{done.stderr[-2000:]}"
            if not self.launching.keep_going or self._over.is_set():
                raise RuntimeError(said)
            print(f"{number} {training.folder.name} failed.", flush=True)
            self.failures.append(Failure(training, said))


def launch(
    command: Sequence[str], started: Started, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, and keeps what it says; `started` gets the process, to end it before."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace", env=environment
    ) as process:
        started(process)
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
