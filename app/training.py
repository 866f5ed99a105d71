"""Trainings that the page starts: processes of their own, whose whole state lies in their run folders.

    FOLDER/NAME/pictures/            uploaded pictures with metadata.jsonl
    FOLDER/NAME/METHOD/              a run folder, and in it
        training.json                process, its start and the command
        train.log                    what the command prints

So that a page, or the server, can be closed and opened again. To stop is a SIGTERM: the script then leaves its loop
with a checkpoint (`reslora_sd.runs.stopping`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from .files import Notes, read_json
from .run import Run

SCRIPT = Path(__file__).resolve().parents[1] / "train_scripts" / "train_text_to_image_reslora.py"
METHODS = ("lora", "reslora_is", "reslora_bs", "reslora_ms")
EMBEDDED = "embedded"
"""The name of the base model and of the data that come with the package."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_started: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


@dataclass(frozen=True)
class Plan:
    """Equal settings for all methods.

    Raises:
        ValueError: a value is out of range.
    """

    name: str
    """Of the folder that the runs come into."""
    methods: tuple[str, ...] = ("lora", "reslora_is")
    pictures: Path | None = None
    """Folder of pictures with metadata.jsonl; `None` for the embedded drawings."""
    prompts: tuple[str, ...] = ()
    """Validation prompts; none for the script's own, which fit the embedded drawings."""
    model: str = EMBEDDED
    steps: int = 100
    batch: int = 4
    learning_rate: float = 5e-4
    rank: int = 16
    seed: int = 42
    every: int = 10
    """Steps between validation pictures."""
    checkpoints: int = 20
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"The name is {self.name!r}. It must be 1 to 48 letters, digits, - or _, a letter or digit first."
            )
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise ValueError(f"The methods are {list(self.methods)}. Choose at least one of {', '.join(METHODS)}.")
        if any(prompt.endswith(".txt") or len(prompt) > 1000 for prompt in self.prompts) or len(self.prompts) > 16:
            raise ValueError(
                "Validation prompts are at most 16 lines of at most 1000 letters, none of them a file name."
            )
        if self.model.startswith("-"):
            raise ValueError(
                f"The base model is {self.model!r}. It must be {EMBEDDED!r}, a folder, or a name on the Hub."
            )
        for what, value, low, high in (
            ("number of steps", self.steps, 1, 100_000),
            ("batch size", self.batch, 1, 64),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("rank", self.rank, 1, 256),
            ("seed", self.seed, 0, 2**31),
            ("distance of validation pictures", self.every, 1, 100_000),
            ("distance of checkpoints", self.checkpoints, 1, 100_000),
        ):
            if not low <= value <= high:
                raise ValueError(f"The {what} is {value}. It must be from {low} to {high}.")


def start(plan: Plan, folder: Path) -> list[Path]:
    """Starts one process a method, all at once; gives their run folders.

    Raises:
        ValueError: `folder` has something of that name already.
    """
    home = folder / plan.name
    taken = [method for method in plan.methods if (home / method).exists()]
    if taken:
        raise ValueError(f"{home} holds {', '.join(taken)} already. Choose another name.")
    threads = max(1, (os.cpu_count() or 1) // len(plan.methods))
    return [_launch(home / method, _flags(plan, home, method), threads) for method in plan.methods]


def resume(run: Path) -> None:
    """Goes on with a training that was stopped, from its latest checkpoint.

    Raises:
        ValueError: the folder holds no training of this page, or the training runs.
    """
    command = read_json(run / "training.json", Notes()).get("flags")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ValueError(f"{run.name} was not started on this page, so its flags are not known.")
    if process(run) is not None:
        raise ValueError(f"{run.name} is running.")
    flags = [word for word in command if word not in ("--resume_from_checkpoint", "latest")]
    _launch(run, [*flags, "--resume_from_checkpoint", "latest"], os.cpu_count() or 1)


def stop(run: Path) -> bool:
    """Asks a training to end after its step; whether there was one to ask."""
    found = process(run)
    if found is not None:
        found.send_signal(signal.SIGTERM)
    return found is not None


def process(run: Path) -> psutil.Process | None:
    """The training's process, if it runs. A number that another program has by now is not it."""
    with _lock:
        _started[:] = [child for child in _started if child.poll() is None]  # ended ones would stay as zombies
    about = read_json(run / "training.json", Notes())
    number, began = about.get("process"), about.get("began")
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(began, (int, float)) or number < 1:
        return None
    try:
        found = psutil.Process(number)
        same = abs(found.create_time() - began) < 1 and found.status() != psutil.STATUS_ZOMBIE
        command = found.cmdline()  # empty while the program is being loaded
        return found if same and (not command or str(run) in command) else None
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
    alive = process(run.path) is not None
    done, total = run.last_step, run.steps
    if run.report and not alive:
        return Status("finished", done, total, "merged and exported")
    if alive and not run.settings:
        return Status("starting", 0, total, "loading the model and the pictures")
    if alive and total is not None and done >= total:
        return Status("finishing", done, total, "merging, measuring and drawing")
    if alive:
        return Status("running", done, total, _pace(run))
    if done and run.checkpoints and run.checkpoints[-1] == done:
        return Status("stopped", done, total, f"checkpoint-{done} can be gone on from")
    return Status("failed", done, total, last_words(run.path) or "it ended without a word")


def last_words(run: Path, most: int = 300) -> str:
    """The end of train.log: the error, where the script told one."""
    try:
        with (run / "train.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            lines = file.read().decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    told = [line for line in lines if line.startswith("Error: ")]
    said = told or [line for line in lines if line.strip()]
    return said[-1][:most] if said else ""


def trainings(folder: Path) -> list[Path]:
    """Run folders of trainings that were started in `folder`, the newest first."""
    found = [path.parent for path in folder.glob("*/*/training.json")]
    return sorted(found, key=lambda path: (path / "training.json").stat().st_mtime, reverse=True)


def _flags(plan: Plan, home: Path, method: str) -> list[str]:
    flags = ["--method", method, "--output_dir", str(home / method), "--max_train_steps", str(plan.steps)]
    flags += ["--train_batch_size", str(plan.batch), "--learning_rate", str(plan.learning_rate)]
    flags += ["--rank", str(plan.rank), "--seed", str(plan.seed), "--center_crop"]
    flags += ["--checkpointing_steps", str(plan.checkpoints)]
    if plan.model != EMBEDDED:
        flags += ["--pretrained_model_name_or_path", plan.model]
    if plan.pictures is not None:
        flags += ["--train_data_dir", str(plan.pictures.resolve())]
    if plan.prompts or plan.model == EMBEDDED:  # the embedded model has prompts of its own
        flags += ["--validation_steps", str(plan.every)]
    if plan.prompts:
        home.mkdir(parents=True, exist_ok=True)
        file = home / "prompts.txt"  # a prompt that looks like a flag stays a prompt
        file.write_text("\n".join(" ".join(prompt.split()) for prompt in plan.prompts) + "\n", encoding="utf-8")
        flags += ["--validation_prompts", str(file)]
    return flags


def _launch(run: Path, flags: Sequence[str], threads: int) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    with (run / "train.log").open("ab") as log:
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
    about = {"process": child.pid, "began": psutil.Process(child.pid).create_time(), "flags": list(flags)}
    (run / "training.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return run


def _pace(run: Run) -> str:
    recent = [row["seconds"] for row in run.log[-20:] if "seconds" in row]
    loss = run.log[-1].get("loss") if run.log else None
    parts = [f"loss {loss:.4f}"] if loss is not None else []
    if recent:
        pace = sum(recent) / len(recent)
        parts.append(f"{pace:.2f} s a step")
        if run.steps:
            parts.append(f"about {max(0.0, (run.steps - run.last_step) * pace / 60):.1f} min of steps left")
    return ", ".join(parts) or "before its first step"
