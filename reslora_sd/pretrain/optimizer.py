"""The optimizer of pretraining: torch's Muon for kernels and matrices, torch's AdamW for the other parameters.

"Muon" (K. Jordan and others, 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the
nearest matrix with equal singular values, so that rare directions are learned as fast as frequent ones.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor, nn

_NARROWEST = 8
"""Kernels and matrices with fewer rows or columns are left to AdamW."""


def as_matrix(kernel: Tensor) -> Tensor:
    """A kernel as a matrix that shares its storage.  (out, in, ...) -> (out, in * ...)

    The columns of a kernel in channels-last memory are in the order of that memory: their order means nothing to Muon.
    """
    if kernel.is_contiguous():
        return kernel.flatten(1)
    return kernel.movedim(1, -1).view(kernel.shape[0], -1)


def split_parameters(modules: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(kernels and matrices; embeddings, narrow kernels, biases and norms) among the trained parameters."""
    embeddings = {id(module.weight) for module in modules.modules() if isinstance(module, nn.Embedding)}
    wide: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in modules.parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1 and id(parameter) not in embeddings
            is_wide = is_matrix and min(as_matrix(parameter.detach()).shape) >= _NARROWEST
            (wide if is_wide else rest).append(parameter)
    return wide, rest


class MuonAndAdamW:
    """Changes the trained parameters of `modules` by their gradients, all with one learning rate.

    Muon's updates are scaled to the size of a usual AdamW update (root of the mean square 0.2). Weights shrink by
    `weight_decay` times the rate a step; what AdamW changes doesn't.

    Raises:
        ImportError: torch is older than 2.9 and has no Muon.
    """

    def __init__(self, modules: nn.Module, weight_decay: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(
                f"Pretraining needs torch 2.9 or newer: this is {torch.__version__}. Install a newer one."
            )
        self.kernels, rest = split_parameters(modules)
        self.matrices = [as_matrix(kernel.detach()) for kernel in self.kernels]  # Muon takes nothing else
        self.muons = [  # one for each, so that threads can share the work
            torch.optim.Muon([matrix], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            for matrix in self.matrices
        ]
        self.adamw = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0)

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.adamw.param_groups[0]["lr"])

    def step(self, learning_rate: float, pool: Executor) -> None:
        """One change of every parameter, shared among the pool's threads; all must have their gradients."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            assert kernel.grad is not None
            ordered = torch.empty_like(kernel).copy_(kernel.grad)  # its memory may be in another order
            matrix.grad = as_matrix(ordered)
        optimizers: list[torch.optim.Optimizer] = [self.adamw, *self.muons]
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate
        for _ in pool.map(lambda optimizer: optimizer.step(), optimizers):
            pass

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes to go on as if there had been no stop."""
        return {"muons": [muon.state_dict() for muon in self.muons], "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state that `state_dict` gave."""
        for muon, its_state in zip(self.muons, state["muons"], strict=True):
            muon.load_state_dict(its_state)
        self.adamw.load_state_dict(state["adamw"])
