"""Checkpoints that are complete or not there, and the way back from them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.pickles import check_pickles
from ..runs.atomic import write_json
from ..runs.checkpoints import refusal, step_of, unfinished
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import MANIFEST_FILE, SCHEDULE_FILE, checkpoint_name
from .adapters import Adapters

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger("reslora_sd")


def register_adapter(accelerator: Accelerator, adapters: Adapters, lr_scheduler: Any) -> None:
    """Makes accelerate's checkpoints hold the adapters in the place of the whole U-Net, and the schedule as JSON.

    Registered with accelerate itself, the schedule would be a pickle that executes what it holds; prepared by it, it
    would step once a process.
    """

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        if accelerator.is_main_process:
            adapters.save(Path(folder))
            write_json(Path(folder) / SCHEDULE_FILE, lr_scheduler.state_dict())
        while weights:  # what accelerate would write as the model
            weights.pop()

    def load(models: list[Any], folder: str) -> None:
        models.clear()
        _load_schedule(lr_scheduler, Path(folder) / SCHEDULE_FILE)
        adapters.load(Path(folder))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(accelerator: Accelerator, run: RunFolder, step: int, total_limit: int | None) -> None:
    """Writes `checkpoint-STEP` under another name and renames it, then removes the oldest beyond the limit."""
    temporary = unfinished(run.path / checkpoint_name(step))
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed while saving
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))  # every process: DeepSpeed and FSDP hang otherwise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.add_checkpoint(temporary, step, total_limit, processes=accelerator.num_processes)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> int:
    """Takes up a checkpoint that `find_checkpoint` has looked through; nothing in it is executed.

    Returns:
        its step.

    Raises:
        ValueError: it is of other settings, or holds a file that would execute something.
    """
    check_pickles(checkpoint)
    written_by = read_object(checkpoint / MANIFEST_FILE, logger.warning).get("processes")
    if written_by != accelerator.num_processes:
        logger.warning(
            "%s is of %s processes, and %d train now: random numbers differ from those of a run without a stop.",
            checkpoint,
            written_by,
            accelerator.num_processes,
        )
    try:
        accelerator.load_state(str(checkpoint))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if str(checkpoint) in str(error):
            raise  # of ours; accelerate itself checks nothing
        why = f"Its files are not those of this training ({type(error).__name__}: {str(error)[:120]})."
        raise ValueError(refusal(checkpoint, why)) from error
    return step_of(checkpoint)


def _load_schedule(lr_scheduler: Any, file: Path) -> None:
    """Takes up a schedule's counters and rates; a field that the schedule doesn't have itself is refused.

    Raises:
        ValueError: the file is missing, damaged, or of another schedule.
    """
    notes: list[str] = []
    stored, own = read_object(file, notes.append), lr_scheduler.state_dict()
    if notes or _form(stored) != _form(own):
        why = " ".join(notes) or f"{file.name} is of another schedule."
        raise ValueError(refusal(file.parent, f"{why} It was damaged, or written by an older version."))
    lr_scheduler.load_state_dict(stored)


def _form(value: Any) -> Any:
    """The same with types in the place of values. A rate may be whole: 0 and 0.0 are alike."""
    if isinstance(value, dict):
        return {key: _form(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_form(one) for one in value]
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)
