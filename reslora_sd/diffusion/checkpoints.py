"""Checkpoints that are complete or not there, and the way back from them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter.adapter import ResLoRAAdapter
from ..adapter.training_form import load_adapter_state
from ..runs.atomic import sync
from ..runs.folder import list_checkpoints
from ..runs.names import ADAPTER_FILE

if TYPE_CHECKING:
    from accelerate import Accelerator


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


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, total_limit: int | None) -> Path:
    """Writes `checkpoint-STEP` under another name, syncs and renames it, then removes the oldest beyond the limit."""
    target = folder / f"checkpoint-{step}"
    temporary = folder / f".{target.name}.tmp"
    if accelerator.is_main_process:
        for left in folder.glob(".checkpoint-*.tmp"):  # of a run that was killed while saving
            shutil.rmtree(left)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))  # every process: DeepSpeed and FSDP hang otherwise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for path in temporary.rglob("*"):
            sync(path)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        sync(folder)
        if total_limit is not None:
            for old in list_checkpoints(folder)[:-total_limit]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target
