"""Checkpoints that are complete or not there, and the way back from them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter.adapter import ResLoRAAdapter
from ..adapter.training_form import load_adapter_state
from ..runs.checkpoints import step_of, unfinished
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import ADAPTER_FILE, MANIFEST_FILE, checkpoint_name

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger("reslora_sd")


def register_adapter(accelerator: Accelerator, adapter: ResLoRAAdapter) -> None:
    """Makes accelerate's checkpoints hold the adapter in the place of the whole U-Net."""

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        if accelerator.is_main_process:
            adapter.save(Path(folder) / ADAPTER_FILE)
        while weights:  # what accelerate would write as the model
            weights.pop()

    def load(models: list[Any], folder: str) -> None:
        models.clear()
        adapter.load_state_dict(load_adapter_state(Path(folder) / ADAPTER_FILE, adapter.config), folder)

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
    """Takes up a checkpoint that `find_checkpoint` has looked through.

    Returns:
        its step.
    """
    written_by = read_object(checkpoint / MANIFEST_FILE, logger.warning).get("processes")
    if written_by != accelerator.num_processes:
        logger.warning(
            "%s is of %s processes, and %d train now: random numbers differ from those of a run without a stop.",
            checkpoint,
            written_by,
            accelerator.num_processes,
        )
    accelerator.load_state(str(checkpoint))
    return step_of(checkpoint)
