"""Checks that stop a training which can't end well, and what a log line says of memory."""

from __future__ import annotations

import math
import os
import sys

import torch

from ..adapter.adapter import ResLoRAAdapter
from ..runs.failures import DivergedError


def check_loss(loss: float, step: int, folder: str | os.PathLike[str], advice: str) -> None:
    """Stops a run whose loss is no number, before the optimizer spreads it into the weights.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"The loss of step {step} is {loss}. Training stopped; the checkpoints in {folder} are from before. "
            f"Lower --learning_rate, use bf16 instead of fp16, or look for {advice}."
        )


def check_trained(loss: float, of: str, folder: str | os.PathLike[str]) -> float:
    """A loss that is measured after training; the last step's own loss is of the weights before it.

    Args:
        of: what it was measured on.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"After training, the loss of {of} is {loss}: the run in {folder} diverged. Lower --learning_rate."
        )
    return loss


def check_learning(adapter: ResLoRAAdapter, step: int) -> None:
    """Every block has to have moved: lora_B starts at zero.

    Raises:
        RuntimeError: a block's `lora_B` is still zero.
    """
    still = [name for name, block in adapter.blocks.items() if block.lora_B.numel() and not block.lora_B.any()]
    if still:
        raise RuntimeError(
            f"After {step} steps lora_B of {len(still)} of {len(adapter.blocks)} blocks is still zero, for example of "
            f"{still[0]}. No gradient reaches them; please report this with the command."
        )


def peak_memory_mb() -> float:
    """The process's peak so far in MB: of the GPU's allocator, or of the resident set on a CPU."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    if sys.platform == "win32":
        import psutil  # accelerate needs it, too

        return round(float(psutil.Process().memory_info().peak_wset) / 1e6, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, bytes on a Mac
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
