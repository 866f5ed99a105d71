"""The run folder: what a training writes and the viewer reads. docs/run-folder.md names every file."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import contents
from .atomic import replacing, sync, write_json
from .checkpoints import list_checkpoints, publish, remove_checkpoint, remove_oldest, step_of
from .failures import check_there
from .jsonl import append_row, is_step, read_rows, write_rows
from .names import INDEX_FILE, LOG_FILE, RUN_FILE, UNMERGED, checkpoint_name

logger = logging.getLogger("reslora_sd")

_PACKAGES = ("reslora-sd", "torch", "diffusers", "transformers", "accelerate", "datasets", "peft", "safetensors")


class RunFolder:
    """One run's files. Nothing is written before `begin` or `resume`; `lock.one_writer` is to be held by then.

    A step's log line, pictures and LoRA are written before its checkpoint, and the file that makes a run a finished one
    (`finish`) last of all. So whatever a killed run left after its newest checkpoint is dropped when it is resumed.

    Args:
        path: the output folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.log_path = self.path / LOG_FILE
        self.index_path = self.path / INDEX_FILE

    def check(self, resume: bool, overwrite: bool) -> None:
        """Whether this run may write here, without writing.

        Raises:
            ValueError: the folder holds another run.
        """
        if contents.holds_run(self.path) and not (resume or overwrite):
            raise ValueError(
                f"--output_dir {self.path} holds a run already. Choose another folder, continue it with "
                "--resume_from_checkpoint latest, or replace it with --overwrite_output_dir."
            )

    def start(self, settings: dict[str, Any], checkpoint: Path | None) -> None:
        """Begins a run, or resumes the one here that a checkpoint is of."""
        if checkpoint is not None and self.owns(checkpoint):
            self.resume(settings, step_of(checkpoint))
        else:
            self.begin(settings)

    def begin(self, settings: dict[str, Any]) -> None:
        """Removes everything that another run left here, and starts one. Files that no run of ours writes stay."""
        self.path.mkdir(parents=True, exist_ok=True)
        if contents.holds_run(self.path):
            contents.remove_run(self.path)
        self._describe(settings)
        for path in (self.log_path, self.index_path):
            write_rows(path, ())

    def owns(self, checkpoint: Path | None) -> bool:
        """Whether a checkpoint is of the run in this folder, and not of one elsewhere."""
        return checkpoint is not None and checkpoint.resolve().parent == self.path.resolve()

    def resume(self, settings: dict[str, Any], step: int) -> None:
        """Goes on after the checkpoint of `step`: as `discard_from`, then writes run.json anew."""
        self.discard_from(step)
        self._describe(settings)

    def discard_from(self, step: int) -> None:
        """Drops what was written after `step`: log lines, pictures, LoRAs, checkpoints, all that finishing wrote."""
        for checkpoint in reversed(list_checkpoints(self.path)):  # a kill in between leaves a `latest` that is whole
            if step_of(checkpoint) > step:
                remove_checkpoint(checkpoint)
        contents.remove_finished(self.path)
        pictures = [row for row in self.pictures() if row["step"] <= step and row["merge_approach"] == UNMERGED]
        write_rows(self.index_path, pictures)
        contents.remove_pictures(self.path, keep={row["file"] for row in pictures})
        contents.remove_loras(self.path, after=step)
        write_rows(self.log_path, [row for row in self.log_rows() if row["step"] <= step])
        contents.remove_temporary(self.path)

    def _describe(self, settings: dict[str, Any]) -> None:
        write_json(self.path / RUN_FILE, {**settings, "versions": package_versions()})

    def log(self, **row: Any) -> None:
        """Adds one line to log.jsonl.

        Raises:
            FileNotFoundError: the run was removed meanwhile; so do `add_picture`, `add_checkpoint` and `finish`.
        """
        check_there(self.path)
        append_row(self.log_path, row)

    def log_rows(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl that have a step; others are told."""
        return self._rows(self.log_path, lambda row: True)

    def add_picture(self, image: Any, step: int, file_name: str, **about: Any) -> dict[str, Any]:
        """Saves a validation picture, adds it to the index with the sha256 of its pixels, and gives that line."""
        check_there(self.path)
        relative = f"{contents.step_folder(step)}/{file_name}"
        with replacing(self.index_path.parent / relative) as temporary:
            image.save(temporary, format="PNG")
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        row = {"step": step, **about, "file": relative, "sha256": digest}
        append_row(self.index_path, row)
        return row

    def make_lora_folder(self, step: int) -> tuple[Path, str]:
        """A folder for the LoRA that is merged after a step, and the name of its file for ComfyUI and A1111."""
        check_there(self.path)
        folder, name = contents.lora_place(self.path, step)
        folder.mkdir(parents=True, exist_ok=True)
        return folder, name

    def pictures(self) -> list[dict[str, Any]]:
        """The lines of the index that name a picture of a step, a prompt, a seed and an approach; others are told."""
        return self._rows(self.index_path, _names_picture)

    def _rows(self, path: Path, is_whole: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        notes: list[str] = []
        rows = []
        for number, row in read_rows(path, notes.append):
            if is_step(row.get("step")) and is_whole(row):
                rows.append(row)
            else:
                notes.append(f"{path.name}, line {number} lacks a part, or has a wrong one; left out.")
        if notes:
            more = f" And {len(notes) - 1} more like it." if len(notes) > 1 else ""
            logger.warning("%s: %s%s", self.path, notes[0], more)
        return rows

    def add_checkpoint(
        self, temporary: Path, step: int, keep: int | None, spare: Path | None = None, **about: Any
    ) -> None:
        """Gives a checkpoint that was written under another name its own, then removes the oldest but `keep`.

        Args:
            spare: a checkpoint that stays in any case.
        """
        check_there(self.path)
        for path in (self.log_path, self.index_path):
            sync(path)  # the checkpoint stands for their lines
        publish(temporary, self.path / checkpoint_name(step), **about)
        remove_oldest(self.path, keep, spare)

    def finish(self, name: str, found: dict[str, Any]) -> None:
        """Writes merge_report.json or results.json, which makes the run a finished one: no log line comes after it.

        Text runs write files for others after it, which resuming the finished run writes again.
        """
        check_there(self.path)
        write_json(self.path / name, found)


def _names_picture(row: dict[str, Any]) -> bool:
    texts = all(isinstance(row.get(key), str) for key in ("prompt", "merge_approach", "file", "sha256"))
    return texts and isinstance(row.get("seed"), int) and contents.is_picture(row["file"])


def package_versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
