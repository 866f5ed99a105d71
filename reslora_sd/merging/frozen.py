"""Residual `frozen`: measuring its maps on the base model, and starting its blocks from a LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import ResLoRAAdapter
from ..blocks.block import LoRABlock
from ..blocks.frozen import mapped_blocks, not_measured, share_map
from ..config import ResLoRAConfig
from . import rules
from .statistics import collect_statistics

RIDGE = 1e-4
"""Added to the diagonal of E[x x^T], as a share of its mean: as for the least-squares merge."""
_LARGEST_CONDITION, _EXACT = 1e5, 1e-5
"""lora_A is float32: a larger condition would cost more by rounding than leaving directions out."""


def freeze_paths(
    adapter: ResLoRAAdapter,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    token_mask: Callable[[Any], Tensor] | None = None,
    ridge: float = RIDGE,
) -> dict[str, float]:
    """Measures every M_n on the base model's own inputs, once, before training; the blocks' branches rest meanwhile.

    Args:
        adapter: of residual `frozen`; blocks of other residuals have no such maps.
        batches, forward, token_mask: as `collect_statistics` takes them. Some hundred samples like those of training.
        ridge: keeps the maps solvable where inputs lack a direction.

    Returns:
        by block, the share of x_{n-1} that M_n x_n is: 1 - E||x_{n-1} - M x_n||^2 / E||x_{n-1}||^2.

    Raises:
        ValueError: the residual is another; or as `collect_statistics`.
    """
    config = adapter.config
    if config.residual != "frozen":
        raise ValueError(f"The adapter's residual is {config.residual!r}. Only residual 'frozen' has maps to measure.")
    with adapter.disabled():
        statistics = collect_statistics(adapter, batches, forward, token_mask=token_mask)
    for members in mapped_blocks(adapter.blocks, config).values():
        share_map(members, rules.path_map(members[0], statistics, ridge))
    found = {name: rules.explained_share(block, statistics, ridge) for name, block in adapter.blocks.items()}
    return {name: share for name, share in found.items() if share is not None}


def start_frozen(block: LoRABlock, config: ResLoRAConfig, G: Tensor, B: Tensor) -> tuple[Tensor, float]:
    """A = G (I + M)^-1: the branch is then that of the given lora_A, for every B.

    Where I + M loses directions, or nearly, A leaves these out instead of becoming huge.

    Returns:
        A (k, in), float32, and ||B (A (I + M) - G)|| / ||B G||; 0 where only rounding is left.

    Raises:
        RuntimeError: the block's path hasn't been measured.
    """
    if block.lora_M is None:
        if block.predecessors and not block.shares_input:
            raise RuntimeError(not_measured(block.name))
        return (G / 2, 0.0) if block.predecessors or config.doubles_start else (G, 0.0)
    M, wanted = block.lora_M.detach().double().cpu(), G.double()
    P = torch.eye(len(M), dtype=M.dtype) + M
    A = torch.linalg.lstsq(P.T, wanted.T, rcond=1 / _LARGEST_CONDITION, driver="gelsd").solution.T.float()
    missed, whole = B.double() @ (A.double() @ P - wanted), B.double() @ wanted
    error = float(missed.norm() / whole.norm()) if whole.norm() > 0 else 0.0
    return A, error if error > _EXACT else 0.0
