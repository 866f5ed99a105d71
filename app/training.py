"""Trainings that the page starts: processes of their own, whose whole state lies in their run folders.

    FOLDER/NAME/pictures/            uploaded pictures with metadata.jsonl
    FOLDER/NAME/METHOD/              a run folder, and in it
        training.json                process, its start and the settings
        train.log                    what the command prints

So that a page, or the server, can be closed and opened again. To stop is a SIGTERM: the script then leaves its loop
with a checkpoint (`reslora_sd.runs.stopping`).
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from reslora_sd.runs.atomic import write_json
from reslora_sd.runs.jsonl import is_number, is_step, read_object
from reslora_sd.runs.names import LOG_FILE, checkpoint_name
from reslora_sd.runs.problems import Notes
from reslora_sd.runs.reader import read_run
from reslora_sd.runs.run import Run

from . import progress
from .progress import changed, say_time
from .training_request import EMBEDDED, TrainingRequest
from .wording import is_utf8

SCRIPT = Path(__file__).resolve().parents[1] / "train_scripts" / "train_text_to_image_reslora.py"
"""Beside this package, in the repository and where it is installed."""
PROCESS_FILE, OUTPUT_FILE = "training.json", "train.log"
PICTURES = "pictures"
"""Folder of uploaded ones, beside the run folders."""
_started: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


def start(request: TrainingRequest, folder: Path, save: Callable[[Path], None] = lambda folder: None) -> list[Path]:
    """Starts one process a method, all at once; gives their run folders.

    Args:
        save: writes the pictures into the folder that the request names, where they are uploaded ones.

    Raises:
        Started: these very trainings were started already.
        ValueError: `folder` has something else of that name.
    """
    home = folder.resolve() / request.name
    threads = max(1, (os.cpu_count() or 1) // len(request.methods))
    with one_at_a_time(home):
        taken = [method for method in request.methods if (home / method).exists()]
        if len(taken) == len(request.methods) and all(_is_of(home / method, request) for method in taken):
            raise Started(request.name)
        if taken:
            raise ValueError(
                f"{home} holds {', '.join(taken)} already. Choose another name, such as {free_name(folder, home.name)}."
            )
        if request.pictures == home / PICTURES:
            if request.pictures.exists():
                raise ValueError(
                    f"{request.pictures} holds pictures already. Choose another name, such as "
                    f"{free_name(folder, home.name)}."
                )
            save(request.pictures)
        return [_launch(request, home, method, threads) for method in request.methods]


class Started(Exception):  # noqa: N818 (it is no error)
    """Somebody pressed Start a second time."""


def free_name(folder: Path, name: str) -> str:
    """A name like this one that nothing in the folder has."""
    stem = name.rstrip("0123456789").rstrip("-")[:40]
    return next(one for number in itertools.count(2) if not (folder / (one := f"{stem}-{number}")).exists())


def _is_of(run: Path, request: TrainingRequest) -> bool:
    """Whether a run was started with these very settings."""
    try:
        return _read_request(run) == request
    except ValueError:
        return False


def resume(run: Path, may_read: Callable[[Path], bool] = lambda path: True) -> None:
    """Goes on with a training that was stopped, from its latest checkpoint.

    What training.json says is checked like what somebody types: it holds settings, no flags, and the run stays where
    it is, wherever the file came from.

    Args:
        may_read: whether the page may train on pictures, or from a model, of this path.

    Raises:
        ValueError: the folder holds no training of this page, it asks for what the page may not do, or it runs.
    """
    run = run.resolve()
    home, method = run.parent, run.name
    with one_at_a_time(home):
        request = _read_request(run)
        local = [request.pictures, Path(request.model).expanduser() if request.model != EMBEDDED else None]
        for path in local:
            if path is not None and path.exists() and not may_read(path):
                raise ValueError(f"{run / PROCESS_FILE} names {path}, which this page may not use.")
        if find_process(run) is not None:
            raise ValueError(f"{run.name} is running.")
        _launch(request, home, method, os.cpu_count() or 1, "--resume_from_checkpoint", "latest")


def stop(run: Path) -> bool:
    """Asks a training to end after its step; whether there was one to ask.

    One that has done its steps is left to finish: cut off, it would have no LoRA.
    """
    found = find_process(run)
    if found is None or status(read_run(run)).state == "finishing":
        return False
    found.send_signal(signal.SIGTERM)
    return True


def find_process(run: Path) -> psutil.Process | None:
    """The training's process, if it runs. A number that another program has by now is not it."""
    with _lock:
        _started[:] = [child for child in _started if child.poll() is None]  # ended ones would stay as zombies
    about = _read_process(run)
    number, began = about.get("process"), about.get("began")
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(began, (int, float)) or number < 1:
        return None
    try:
        found = psutil.Process(number)
        same = abs(found.create_time() - began) < 1 and found.status() != psutil.STATUS_ZOMBIE
        command = found.cmdline()  # empty while the program is being loaded
        return found if same and (not command or str(run.resolve()) in command) else None
    except psutil.Error:
        return None


@dataclass(frozen=True)
class Status:
    """How far a training is."""

    state: str
    """`starting`, `running`, `finishing`, `finished`, `stopped` or `failed`."""
    step: int
    steps: int | None
    detail: str
    """One line for people."""


def status(run: Run) -> Status:
    """From the run folder and the process table alone."""
    alive = find_process(run.path) is not None
    done, total = run.last_step, run.steps
    if run.state == "finished" and not alive:
        return Status("finished", done, total, "merged and exported")
    if alive and not run.settings:
        return Status("starting", 0, total, "loading the model and the pictures")
    if alive and total is not None and done >= total:
        left = say_time(progress.finishing(run) - (time.time() - changed(run.path / LOG_FILE)))
        return Status("finishing", done, total, f"merging, measuring and drawing: {left} left")
    if alive:
        return Status("running", done, total, progress.tell(run, *_since(run.path)))
    if done and run.checkpoints and run.checkpoints[-1] == done:
        return Status("stopped", done, total, f"{checkpoint_name(done)} can be resumed")
    return Status("failed", done, total, last_message(run.path) or f"it ended without a message in {OUTPUT_FILE}")


def last_message(run: Path, most: int = 300) -> str:
    """The last line of train.log: the error, where the script told one."""
    try:
        with (run / OUTPUT_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            lines = file.read().decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    told = [line for line in lines if line.startswith("Error: ")]
    said = told or [line for line in lines if line.strip()]
    return said[-1][:most] if said else ""


def trainings(folder: Path) -> list[Path]:
    """Run folders of trainings that were started in `folder`, the newest first."""
    found = [path.parent for path in folder.glob(f"*/*/{PROCESS_FILE}") if is_utf8(path)]
    return sorted(found, key=lambda path: (path / PROCESS_FILE).stat().st_mtime, reverse=True)


@contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """Only one page at a time looks whether trainings of a name run, and starts them."""
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.parent / f".{home.name}.starting")
    try:
        with lock.acquire(timeout=20):
            yield
    except Timeout:
        raise ValueError(f"Another page is starting trainings in {home}. Try again.") from None


def _launch(request: TrainingRequest, home: Path, method: str, threads: int, *more: str) -> Path:
    run = home / method
    run.mkdir(parents=True, exist_ok=True)
    flags = [*request.flags(home, method), *more]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    from_step = read_run(run).last_step
    with (run / OUTPUT_FILE).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # closing the server's terminal doesn't end it
        )
    with _lock:
        _started.append(child)
    began = psutil.Process(child.pid).create_time()
    about = {"process": child.pid, "began": began, "from_step": from_step, "settings": request.to_dict()}
    write_json(run / PROCESS_FILE, about)
    return run


def _read_request(run: Path) -> TrainingRequest:
    """The settings in training.json, checked."""
    settings = _read_process(run).get("settings")
    if not isinstance(settings, dict):
        raise ValueError(
            f"{run / PROCESS_FILE} holds no settings of a training of this page. Go on with its own command, and "
            "--resume_from_checkpoint latest."
        )
    try:
        request = TrainingRequest.from_dict(settings)
    except ValueError as error:
        raise ValueError(f"{run / PROCESS_FILE}: {error}") from error
    if run.name not in request.methods:
        raise ValueError(f"{run / PROCESS_FILE} is of {', '.join(request.methods)}, not of {run.name}.")
    return request


def _since(run: Path) -> tuple[float | None, int]:
    """When the process began, and at which step."""
    about = _read_process(run)
    began, step = about.get("began"), about.get("from_step", 0)
    known = float(began) if isinstance(began, int | float) and is_number(began) else None
    return known, step if isinstance(step, int) and is_step(step) else 0


def _read_process(run: Path) -> dict[str, object]:
    """What training.json says; nothing where it is missing or damaged."""
    return read_object(run / PROCESS_FILE, Notes().add)
