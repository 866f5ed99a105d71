"""The end of a training that several processes share."""

from __future__ import annotations

from typing import Any


def leave_process_group(accelerator: Any) -> None:
    """Ends the process group and accelerate's trackers; without a group, only these.

    The DDP model has to be gone before its group: where it lets go of the group as the last one, it holds the
    interpreter's lock while it joins Gloo's threads, and one of these may wait for that lock
    (pytorch/pytorch, issue 56297). So callers drop their own references first, and this function drops accelerate's.
    """
    if getattr(accelerator, "deepspeed_engine_wrapped", None) is None:  # an engine still holds the trained weights
        accelerator.free_memory()  # and a collection of garbage
    accelerator.end_training()
