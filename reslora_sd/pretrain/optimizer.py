"""The optimiser of pretraining: orthogonalised momentum for kernels and matrices, AdamW for the rest.

"Muon" (K. Jordan and others, 2024, https://kellerjordan.github.io/posts/muon): the momentum of a matrix is
replaced by the nearest matrix with equal singular values, so that rare directions are learned as fast as
frequent ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of the singular value decomposition U S V^T, by Newton-Schulz steps.  (m, n) -> (m, n)"""
    a, b, c = 3.4445, -4.7750, 2.0315  # the quintic of Jordan and others: quick, values end in 0.7 ... 1.2
    x: Tensor = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon for the groups with `orthogonalise=True`, AdamW for the others.

    Every group has its `lr`; the update of an orthogonalised matrix is scaled to the size of a usual AdamW
    update (root of the mean square 0.2), so that both kinds share one learning rate.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        """`lr` is for groups that bring none."""
        defaults = {"momentum": 0.95, "betas": (0.9, 0.99), "weight_decay": 0.0, "orthogonalise": False}
        super().__init__(groups, {"lr": lr, **defaults})

    def step(self, closure: None = None, pool: Executor | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient; with a pool, its threads share the parameters."""
        assert closure is None
        jobs = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, _ in jobs:
            self.state[parameter]  # a defaultdict: entries are made here, since threads must not race to make them
        for _ in (pool.map if pool else map)(self._change, jobs):
            pass

    @torch.no_grad()
    def _change(self, job: tuple[nn.Parameter, dict[str, Any]]) -> None:
        parameter, group = job
        change = self._muon(parameter, group) if group["orthogonalise"] else self._adam(parameter, group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])

    def _muon(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        grad = parameter.grad
        assert grad is not None
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(state["momentum"], group["momentum"])
        matrix = ahead.flatten(1).to(torch.bfloat16)  # the steps' own error is far above the rounding's
        change: Tensor = orthogonalised(matrix) * (0.2 * max(matrix.shape) ** 0.5)
        return change.view(parameter.shape)

    def _adam(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        grad = parameter.grad
        assert grad is not None
        if not state:
            state["step"] = 0
            state["first"] = torch.zeros_like(grad)
            state["second"] = torch.zeros_like(grad)
        state["step"] += 1
        b1, b2 = group["betas"]
        state["first"].lerp_(grad, 1 - b1)
        state["second"].lerp_(grad.square(), 1 - b2)
        first = state["first"] / (1 - b1 ** state["step"])
        second = state["second"] / (1 - b2 ** state["step"])
        change: Tensor = first / (second.sqrt() + 1e-8)
        return change
