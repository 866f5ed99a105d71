"""What a training and its launcher have to agree on; stopping and ending one that several processes share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"


def check_accumulation(steps: int) -> None:
    """Whether `accelerate launch --gradient_accumulation_steps`, which sets a variable, says what the flag says.

    accelerate's own 1 and auto leave it to the flag.

    Raises:
        ValueError: the two differ.
    """
    launched = os.environ.get(_ACCUMULATION, "")
    if launched not in ("", "1", "auto", str(steps)):
        raise ValueError(_disagreement(steps, launched, f"accelerate launch or {_ACCUMULATION}"))


def check_prepared_accumulation(accelerator: Any, steps: int) -> None:
    """Whether accelerate still accumulates as the flag says: a DeepSpeed config that says otherwise has won over it.

    Raises:
        ValueError: the two differ.
    """
    if accelerator.gradient_accumulation_steps != steps:
        raise ValueError(_disagreement(steps, accelerator.gradient_accumulation_steps, "the DeepSpeed config"))


def _disagreement(steps: int, other: Any, source: str) -> str:
    return (
        f"--gradient_accumulation_steps is {steps}, and {source} says {other}. Give the number to this script only, "
        "or the same to both."
    )


def asked_anywhere(accelerator: Any) -> Callable[[bool], bool] | None:
    """For `until_stopped`: whether any process was asked to stop, known to all at once; `None` for one process.

    One number is added up over the processes for it at each step.
    """
    if accelerator.num_processes == 1:
        return None

    def agree(asked: bool) -> bool:
        flag = torch.tensor(float(asked), device=accelerator.device)
        return float(accelerator.reduce(flag, "sum")) > 0

    return agree


def leave_process_group(accelerator: Any) -> None:
    """Ends the process group and accelerate's trackers; without a group, only these.

    The DDP model has to be gone before its group: where it lets go of the group as the last one, it holds the
    interpreter's lock while it joins Gloo's threads, and one of these may wait for that lock
    (pytorch/pytorch, issue 56297). So callers drop their own references first, and this function drops accelerate's.
    """
    if getattr(accelerator, "deepspeed_engine_wrapped", None) is None:  # an engine still holds the trained weights
        accelerator.free_memory()  # and a collection of garbage
    accelerator.end_training()
