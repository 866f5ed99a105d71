"""What fits this machine: the frozen weights' precision, threads; drawing and measuring without autocast."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TINY = 20_000_000
"""Parameters of a U-Net that one thread trains faster than two; Stable Diffusion's have 860 million and more."""


def frozen_dtype(accelerator: Accelerator) -> torch.dtype:
    """The precision of the frozen weights. fp16 on a CPU becomes float32, with a warning: it's emulated there.

    Raises:
        ValueError: accelerate is set to another precision, such as fp8.
    """
    name = accelerator.mixed_precision
    if name not in _DTYPES:
        raise ValueError(f"accelerate's mixed precision is {name!r}. Give --mixed_precision no, fp16 or bf16.")
    if name == "fp16" and accelerator.device.type == "cpu":
        logger.warning("--mixed_precision fp16 needs a GPU. On this CPU everything is float32.")
        return torch.float32
    return _DTYPES[name]


def fit_threads(unet: nn.Module, device: torch.device) -> None:
    """One thread for a tiny U-Net on a CPU: several wait for each other longer than they work.

    Where OMP_NUM_THREADS or MKL_NUM_THREADS is set, as `accelerate launch` does, that counts.
    """
    asked = any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    parameters = sum(value.numel() for value in unet.parameters())
    if device.type == "cpu" and not asked and parameters < _TINY:
        torch.set_num_threads(1)


def use_own_forward(model: nn.Module) -> None:
    """Takes off, for good, the forward that accelerate put on the model: autocast, then float32 outputs.

    What is drawn or measured then runs as in the user's pipeline: all in the weights' precision. A half VAE refuses
    float32 latents. accelerate's own `unwrap_model(..., keep_fp32_wrapper=False)` would also take off the decorators
    that diffusers has on its forward.
    """
    vars(model).pop("forward", None)


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """`use_own_forward` for a while; training goes on with what accelerate put there."""
    prepared = vars(model).get("forward")
    use_own_forward(model)
    try:
        yield
    finally:
        if prepared is not None:
            vars(model)["forward"] = prepared
