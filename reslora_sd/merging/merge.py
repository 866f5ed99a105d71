"""Merging: an adapter with residual paths in, an ordinary LoRA out; nothing else is changed.

| approach        | residual          | what it is                                              | exact                |
| --------------- | ----------------- | ------------------------------------------------------- | -------------------- |
| `none`          | all               | the blocks alone, paths dropped (the paper's merge_no)  | for residual `none`  |
| `input`         | `input`, `middle` | Eqs. 7 to 9 and 12, from norms of inputs (merge_bi)     | if x_{n-1} = a x_n   |
| `weights`       | `input`, `middle` | Eqs. 10, 11 and 13, from norms of weights (merge_bw)    | if x_{n-1} = a x_n   |
| `least_squares` | `input`, `middle` | the best plain LoRA of the same rank (ours)             | if x_{n-1} = M x_n   |
| `exact`         | `block`, `none`   | Eq. 5: the stacked pair, of rank (m+1) r                | unless cut by rank   |
| `exact`         | `frozen`          | A (I + M), of the same rank                             | always               |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter.adapter import ResLoRAAdapter
from ..blocks.block import LoRABlock
from ..blocks.plain import PlainBlock
from ..config import ResLoRAConfig
from ..files.lora_file import TRANSFORMER, UNET
from ..plan.transformer import TRANSFORMERS
from ..runs.names import APPROACHES, default_approach, looks_at_data
from . import rules
from .plain_lora import BlockReport, PlainLoRA
from .statistics import Statistics


def merge(
    adapter: ResLoRAAdapter,
    approach: str | None = None,
    statistics: Statistics | None = None,
    *,
    rank: int | None = None,
    ridge: float = 1e-4,
    alpha_from: str = "weights",
) -> PlainLoRA:
    """Merges the residual paths away. The adapter and its model stay as they are; merging again gives the same.

    Args:
        adapter: the trained adapter.
        approach: see the table above; `None` for the best one of the adapter's residual.
        statistics: from `collect_statistics`; `input` and `least_squares` need it. With it, the result's `reports` say
            how far each merged branch is from the unmerged one.
        rank: `exact` only: cut the stacked pair to this rank by SVD.
        ridge: `least_squares` only: what is added to the diagonal of E[x x^T], as a share of its mean.
        alpha_from: `weights` with residual `middle` only. Eq. 13 says that alpha_{n-k} comes "in the same way" as
            for `input`, f*_{n-k-1} / f*_{n-1}, and this is "weights"; its last line writes f_{n-1} / f_n, which the
            published code takes from norms of the inputs, and this is "inputs" (needs statistics).

    Raises:
        ValueError: the approach doesn't fit the adapter's residual, or an argument is missing or out of range.
    """
    residual = adapter.config.residual
    approach = approach or default_approach(residual)
    _check(residual, approach, statistics, rank, ridge, alpha_from)
    merged_norms: dict[str, float] = {}  # f* of Eqs. 10 and 11, filled along the chains
    plain: dict[str, PlainBlock] = {}
    reports: dict[str, BlockReport] = {}
    with torch.no_grad():
        for name, block in adapter.blocks.items():
            if approach == "exact" and residual == "block":
                A, B, error = rules.stack(block, rank)
                found = _Merged(A, error=error)
            elif residual == "frozen":
                B = block.lora_B.detach().float().cpu()
                found = _Merged(rules.through_map(block, adapter.config).float(), error=0.0)
            else:
                B = block.lora_B.detach().float().cpu()
                from_inputs = statistics if alpha_from == "inputs" else None
                found = _merge_a(block, approach, adapter.config, statistics, merged_norms, ridge, from_inputs)
                if statistics is not None:
                    found.error = rules.branch_error(block, adapter.config, found.A, statistics)
                elif residual == "none":
                    found.error = 0.0  # there is no path to lose
            if approach == "weights":
                merged_norms[name] = rules.merged_norm(_weight(adapter, name).flatten(1), found.A, B, block.scaling)
            plain[name] = _plain(found.A, B, block.scaling, _weight(adapter, name).ndim)
            norm = rules.input_norm(block, statistics) if statistics is not None else None
            explained = rules.explained_share(block, statistics, ridge) if statistics is not None else None
            reports[name] = BlockReport(found.alpha, found.alphas, found.A.shape[0], found.error, norm, explained)
    of = TRANSFORMER if type(adapter.model).__name__ in TRANSFORMERS else UNET
    return PlainLoRA(plain, adapter.config, approach, reports, component=of)


def _plain(A: Tensor, B: Tensor, scaling: float, dimensions: int) -> PlainBlock:
    """A convolution of 1 x 1 gets a pair of convolutions, as loaders expect."""
    A, B = (one.reshape(*one.shape, *(1,) * (dimensions - 2)) for one in (A, B))
    return PlainBlock(_own(A), _own(B), scaling)


def _own(matrix: Tensor) -> Tensor:
    """A copy: a rule may hand on the adapter's own parameter, which further training would change."""
    return matrix.detach().clone(memory_format=torch.contiguous_format)


@dataclass
class _Merged:
    A: Tensor
    alpha: float | None = None
    alphas: tuple[float, ...] = ()
    error: float | None = None


def _merge_a(
    block: LoRABlock,
    approach: str,
    config: ResLoRAConfig,
    statistics: Statistics | None,
    merged_norms: dict[str, float],
    ridge: float,
    from_inputs: Statistics | None,
) -> _Merged:
    """The approaches that change A only."""
    A = block.lora_A.detach().float().cpu()
    if approach == "input":
        assert statistics is not None
        alpha = rules.alpha_by_input(block, config, statistics)
        return _Merged((1 + alpha) * A, alpha)
    if approach == "weights" and config.residual == "input":
        alpha = rules.alpha_by_weights(block, config, merged_norms)
        return _Merged((1 + alpha) * A, alpha)
    if approach == "weights":
        alphas = rules.alphas_eq13(block, merged_norms, from_inputs)
        return _Merged(rules.sum_eq13(block, alphas), alphas=alphas)
    if approach == "least_squares":
        assert statistics is not None
        return _Merged(rules.least_squares(block, config, statistics, ridge))
    return _Merged(A)


def _weight(adapter: ResLoRAAdapter, name: str) -> Tensor:
    weight = adapter.model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _check(
    residual: str, approach: str, statistics: Statistics | None, rank: int | None, ridge: float, alpha_from: str
) -> None:
    if approach not in APPROACHES[residual]:
        raise ValueError(
            f"Approach {approach!r} doesn't fit residual {residual!r}. It can be merged by "
            f"{', '.join(APPROACHES[residual])}."
        )
    if alpha_from not in ("weights", "inputs"):
        raise ValueError(f"alpha_from is {alpha_from!r}. It must be 'weights' or 'inputs'.")
    if statistics is None and looks_at_data(approach, alpha_from):
        raise ValueError(f"Approach {approach!r} needs statistics. Run collect_statistics(adapter, ...) and pass them.")
    if alpha_from == "inputs" and (approach, residual) != ("weights", "middle"):
        raise ValueError("alpha_from='inputs' has a meaning for approach 'weights' of residual 'middle' only.")
    if rank is not None and (approach != "exact" or residual != "block"):
        raise ValueError(f"rank={rank} cuts the stacked pair of residual 'block' only. Leave it out here.")
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}. It must be 1 or more.")
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}. It must be 0 or more.")
