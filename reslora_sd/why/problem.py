"""What is trained for the measurements: a base model and its data, with the same draws and the same first A for all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapter.adapter import ResLoRAAdapter
from ..merging.frozen import freeze_paths
from ..merging.merge import merge
from ..merging.statistics import collect_statistics

Shares = dict[str, float]
"""By block: how much of x_{n-1} is a linear map of x_n."""


@dataclass(frozen=True)
class Kind:
    """A method, with what its chains start with."""

    method: str
    first_block: str = "self"

    @classmethod
    def named(cls, name: str) -> Kind:
        """`reslora_is`, or `reslora_is:none` for the other first block."""
        method, _, first_block = name.partition(":")
        return cls(method, first_block or "self")

    def __str__(self) -> str:
        return self.method if self.first_block == "self" else f"{self.method}:{self.first_block}"


class Problem(Protocol):
    """A base model with data."""

    name: str
    model: nn.Module
    max_grad_norm: float
    asked: dict[str, Any]
    """Settings besides the weights, as JSON can hold them, that its losses depend on."""

    def adapt(self, kind: Kind, seed: int) -> ResLoRAAdapter:
        """Puts a new adapter into the model, whose A's are the same for every method."""

    def measured(self, seed: int) -> Iterable[Any]:
        """Batches to measure inputs on: those of the first steps."""

    def forward(self, batch: Any) -> object:
        """Runs the model on one of them."""

    def token_mask(self, batch: Any) -> Tensor | None:
        """Which tokens of it count; `None` for all."""

    def loss(self, seed: int, step: int) -> Tensor:
        """Of the batch that a step trains on."""

    def held_out(self) -> float:
        """The loss of data that training doesn't see; the same for all runs."""


def hash_of(model: nn.Module) -> str:
    """The first twelve digits of a hash of the weights: figures of other weights are other figures."""
    found = hashlib.sha256()
    for parameter in model.parameters():
        found.update(parameter.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:12]


def freeze(problem: Problem, adapter: ResLoRAAdapter, seed: int) -> Shares:
    """Measures the maps of a new `frozen` adapter."""
    batches = list(problem.measured(seed))
    return freeze_paths(adapter, batches, problem.forward, token_mask=_mask_of(problem, batches))


def explained_now(problem: Problem, adapter: ResLoRAAdapter, seed: int) -> Shares:
    """The shares in the model as it is trained now."""
    batches = list(problem.measured(seed))
    statistics = collect_statistics(adapter, batches, problem.forward, token_mask=_mask_of(problem, batches))
    reports = merge(adapter, statistics=statistics).reports
    return {name: report.explained for name, report in reports.items() if report.explained is not None}


def _mask_of(problem: Problem, batches: list[Any]) -> Any:
    masked = batches and problem.token_mask(batches[0]) is not None
    return problem.token_mask if masked else None


def clip(adapter: ResLoRAAdapter, most: float) -> None:
    """As the training scripts do before every step."""
    torch.nn.utils.clip_grad_norm_(list(adapter.parameters()), most)
