"""The run folder: what a training writes and the viewer reads. README.md, "The run folder", names every file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .atomic import replacing, write_json

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PACKAGES = ("reslora-sd", "torch", "diffusers", "transformers", "accelerate", "datasets", "peft", "safetensors")


class RunFolder:
    """One run's files. Nothing is written before `create`.

    Args:
        path: the output folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.log_path = self.path / "log.jsonl"
        self.index_path = self.path / "validation" / "index.jsonl"

    def check(self, resume: bool, overwrite: bool) -> None:
        """Whether this run may write here, without writing.

        Raises:
            ValueError: the folder can't be written, or holds another run.
        """
        ancestor = self.path
        while not ancestor.exists() and ancestor != ancestor.parent:
            ancestor = ancestor.parent
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
            raise ValueError(
                f"--output_dir {self.path} can't be written: {ancestor} is no folder that you may write to."
            )
        if (self.path / "run.json").exists() and not (resume or overwrite):
            raise ValueError(
                f"--output_dir {self.path} holds a run already. Choose another folder, continue it with "
                "--resume_from_checkpoint latest, or replace it with --overwrite_output_dir."
            )

    def create(self, settings: dict[str, Any], resumed_at: int) -> None:
        """Writes run.json, and cuts the logs of a resumed run back to the step that it continues from."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not resumed_at:
            for stale in list_checkpoints(self.path):  # of the run that this one replaces: `latest` must not find them
                shutil.rmtree(stale)
        for path in (self.log_path, self.index_path):
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [row for row in read_jsonl(path) if row["step"] <= resumed_at] if resumed_at else []
            with replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        write_json(self.path / "run.json", {**settings, "versions": package_versions()})

    def log(self, **row: Any) -> None:
        """Adds one line to log.jsonl."""
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def add_picture(self, image: Any, step: int, file_name: str, **about: Any) -> str:
        """Saves a validation picture, adds it to the index, gives its sha256 (of the decoded pixels)."""
        relative = f"step-{step:06d}/{file_name}"
        path = self.index_path.parent / relative
        with replacing(path) as temporary:
            image.save(temporary, format="PNG")
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        with self.index_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **about, "file": relative, "sha256": digest}) + "\n")
        return digest


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was saved after."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None
    return int(match.group(1))


def find_checkpoint(folder: Path, asked: str) -> Path:
    """The checkpoint that `--resume_from_checkpoint` means: `latest`, a name in the output folder, or a path.

    Raises:
        FileNotFoundError: there is none.
    """
    if asked == "latest":
        complete = list_checkpoints(folder)
        if not complete:
            raise FileNotFoundError(f"{folder} has no checkpoint to resume from. Leave --resume_from_checkpoint out.")
        return complete[-1]
    for path in (Path(asked), folder / asked):
        if _CHECKPOINT.fullmatch(path.name) and path.is_dir():
            return path
    have = ", ".join(path.name for path in list_checkpoints(folder)) or "none"
    raise FileNotFoundError(f"There is no checkpoint {asked!r}; {folder} has: {have}.")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def package_versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
