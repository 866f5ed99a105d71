"""What of a folder a run of ours wrote, and how it is removed. Files of others in the same folder stay."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from .atomic import TEMPORARY
from .checkpoints import UNFINISHED, list_checkpoints, remove_checkpoint
from .jsonl import read_object
from .names import (
    ADAPTER_FILE,
    ANSWERS_FILE,
    DIFFUSERS_FILE,
    FUSED_FOLDER,
    HEAD_FILE,
    INDEX_FILE,
    KOHYA_KEY,
    LOG_FILE,
    LORAS_FOLDER,
    OLD_KOHYA_FILE,
    PEFT_FOLDER,
    REFERENCES_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_FILE,
    SHEET_FILES,
    TEXT_ADAPTERS,
    TRACKER,
    kohya_name,
)

_FINISHED = (
    *(REPORT_FILE, RESULTS_FILE, DIFFUSERS_FILE, ADAPTER_FILE, *TEXT_ADAPTERS.values(), HEAD_FILE, ANSWERS_FILE),
    *SHEET_FILES,
)
"""Written after the last step; the file that makes a run a finished one goes first."""
_STEP_FOLDER = re.compile(r"step-(\d{6,12})")
_PICTURE = re.compile(r"step-\d{6,12}/[a-z_]+-\d{2,}-\d+\.png")
_LORA = re.compile(r".+-step\d{6,12}\.safetensors")
_REFERENCE = re.compile(r"\d{2,}\.png")


def step_folder(step: int) -> str:
    """The folder of a step's pictures, in `validation/`, and of its merged LoRA, in `loras/`."""
    return f"step-{step:06d}"


def lora_place(folder: Path, step: int) -> tuple[Path, str]:
    """Where a step's merged LoRA is, and the name that its file for ComfyUI and A1111 has there."""
    name = kohya_file(folder).removesuffix(".safetensors")
    return folder / LORAS_FOLDER / step_folder(step), f"{name}-{step_folder(step).replace('-', '')}.safetensors"


def lora_steps(folder: Path) -> dict[int, Path]:
    """The folders of merged LoRAs by their step, in its order, also where a kill left only a part."""
    found = {int(match[1]): path for path, match in _step_folders(folder / LORAS_FOLDER)}
    return dict(sorted(found.items()))


def _step_folders(parent: Path) -> Iterable[tuple[Path, re.Match[str]]]:
    for path in parent.glob("step-*"):
        match = _STEP_FOLDER.fullmatch(path.name)
        if match is not None and path.is_dir():
            yield path, match


def is_picture(file: str) -> bool:
    """Whether the path, relative to `validation/`, is one that a run gives its pictures."""
    return _PICTURE.fullmatch(file) is not None


def holds_run(folder: Path) -> bool:
    """Whether a run was here; folders such as `logs` or `peft` alone may be another program's."""
    files = (RUN_FILE, LOG_FILE, INDEX_FILE, REPORT_FILE, RESULTS_FILE)
    return any((folder / name).is_file() for name in files) or bool(list_checkpoints(folder))


def kohya_file(folder: Path) -> str:
    """The name of the run's LoRA for ComfyUI and A1111, also where the folder was renamed, or is of an old version."""
    settings = read_object(folder / RUN_FILE, lambda _: None)
    name = settings.get(KOHYA_KEY)
    if isinstance(name, str) and name.endswith(".safetensors") and name == os.path.basename(name) and name[0] != ".":
        return name
    return OLD_KOHYA_FILE if settings and name is None else kohya_name(folder)


def remove_run(folder: Path) -> None:
    """Removes all of a run. Its run.json goes last, so that a kill in between leaves a folder that is still taken."""
    trackers = _tracker_folders(folder)
    remove_finished(folder)
    for checkpoint in reversed(list_checkpoints(folder)):
        remove_checkpoint(checkpoint)
    remove_pictures(folder, keep=())
    remove_loras(folder, after=-1)
    references = (folder / REFERENCES_FILE).parent / "real"
    for picture in references.glob("*") if references.is_dir() else ():
        if _REFERENCE.fullmatch(picture.name):
            picture.unlink()
    for tracker in trackers:
        shutil.rmtree(tracker, ignore_errors=True)
    remove_temporary(folder)
    for name in (REFERENCES_FILE, INDEX_FILE, LOG_FILE, RUN_FILE):
        (folder / name).unlink(missing_ok=True)
    _remove_empty([references, (folder / INDEX_FILE).parent, *(tracker.parent for tracker in trackers)])


def remove_finished(folder: Path) -> None:
    """Removes what is written after the last step of a training."""
    for name in (*_FINISHED, kohya_file(folder)):
        (folder / name).unlink(missing_ok=True)
    for name in (PEFT_FOLDER, FUSED_FOLDER):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def remove_pictures(folder: Path, keep: Collection[str]) -> None:
    """Removes the pictures of all steps but those to keep, paths relative to `validation/`."""
    validation = (folder / INDEX_FILE).parent
    for step, _ in _step_folders(validation):
        for picture in step.glob("*.png"):
            relative = f"{step.name}/{picture.name}"
            if is_picture(relative) and relative not in keep:
                picture.unlink()
        _remove_temporary_in(step)
        _remove_empty([step])


def remove_loras(folder: Path, after: int) -> None:
    """Removes the LoRAs that were merged after a step."""
    for step, place in lora_steps(folder).items():
        _remove_temporary_in(place)
        for file in place.glob("*.safetensors") if step > after else ():
            if file.name == DIFFUSERS_FILE or _LORA.fullmatch(file.name):
                file.unlink()
        _remove_empty([place])
    _remove_empty([folder / LORAS_FOLDER])


def remove_temporary(folder: Path) -> None:
    """Removes what a process left that was killed while it wrote a file or a checkpoint."""
    validation = (folder / INDEX_FILE).parent
    for place in (folder, validation, validation / "real", *lora_steps(folder).values()):
        _remove_temporary_in(place)


def _remove_temporary_in(folder: Path) -> None:
    for left in folder.glob(".*.tmp"):
        if left.is_dir() and UNFINISHED.fullmatch(left.name):
            shutil.rmtree(left)
        elif left.is_file() and TEMPORARY.fullmatch(left.name):
            left.unlink()


def _tracker_folders(folder: Path) -> list[Path]:
    """Where trackers wrote: the U-Net's below `--logging_dir`, as run.json says, and transformers' TensorBoard."""
    settings = read_object(folder / RUN_FILE, lambda _: None).get("arguments")
    named = settings.get("logging_dir") if isinstance(settings, dict) else None
    found = [folder / named / TRACKER] if isinstance(named, str) else []
    found += sorted({events.parent for events in folder.glob("runs/*/events.out.tfevents.*")})
    return [one for one in found if one.resolve().is_relative_to(folder.resolve())]


def _remove_empty(folders: Iterable[Path]) -> None:
    for one in folders:
        with suppress(OSError):  # something is in it, or it isn't there
            one.rmdir()
