"""Train and eval mode of a model for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and every submodule's own mode again after it, also after an error.

    `model.train(model.training)` would put parts into train mode that somebody keeps in eval mode, such as a frozen
    encoder.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
