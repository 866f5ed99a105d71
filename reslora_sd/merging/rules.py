"""Equations 5 to 13 of the paper and the least-squares merge, one function each, for one block.

Letters: A (r, in), B (out, r), x_n the block's input, e_n what the path adds to A_n x_n (A_n x_{n-1} for Eq. 2,
sum_k A_{n-k} x_{n-k} for Eq. 4), f_n an average norm, s = lora_alpha / r.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..blocks.block import LoRABlock
from ..blocks.equations import block_shortcut
from ..blocks.frozen import with_map
from ..blocks.plain import cut_pair
from ..config import ResLoRAConfig
from .statistics import Statistics


def stack(block: LoRABlock, rank: int | None) -> tuple[Tensor, Tensor, float]:
    """Eq. 5: the sum of B_{n-k} A_{n-k} as one pair of rank (m+1) r; exact.

    With `rank`, the best pair of that rank.

    Returns:
        A (rank, in), B (out, rank), and the relative error that the cut costs.
    """
    blocks = (block, *block.predecessors)
    A, B = block_shortcut([one.lora_A.float().cpu() for one in blocks], [one.lora_B.float().cpu() for one in blocks])
    return (A, B, 0.0) if rank is None else cut_pair(A, B, rank)


def alpha_by_input(block: LoRABlock, config: ResLoRAConfig, statistics: Statistics) -> float:
    """Eq. 9 for `input`: f_{n-1} / f_n of ||x||. Eq. 12 for `middle`: the sum over k of f_{n-k} / f_n of ||A x||.

    Exact where every x_{n-k} is alpha_k x_n. A chain's start has x_{n-1} = x_n (alpha 1) or nothing (alpha 0).
    """
    if not block.predecessors:
        return _alpha_of_start(config)
    own = statistics.blocks[block.name]
    if config.residual == "input":
        return _ratio(_mean(statistics.blocks[block.predecessors[0].name].input_norms), _mean(own.input_norms))
    f = _mean(own.middle_norms)
    return sum(_ratio(_mean(statistics.blocks[one.name].middle_norms), f) for one in block.predecessors)


def input_norm(block: LoRABlock, statistics: Statistics) -> float:
    """f_n of Eq. 8: the mean of ||x_n||_F."""
    return _mean(statistics.blocks[block.name].input_norms)


def alpha_by_weights(block: LoRABlock, config: ResLoRAConfig, merged_norms: Mapping[str, float]) -> float:
    """Eq. 11: alpha = f*_{n-2} / f*_{n-1}, f* the norm of a merged weight; 1 where there is no n-2."""
    if not block.predecessors:
        return _alpha_of_start(config)
    previous = block.predecessors[0]
    if not previous.predecessors:
        return 1.0
    return _ratio(merged_norms[previous.predecessors[0].name], merged_norms[previous.name])


def alphas_eq13(
    block: LoRABlock, merged_norms: Mapping[str, float], statistics: Statistics | None
) -> tuple[float, ...]:
    """alpha_{n-1}, alpha_{n-2}, ... of Eq. 13: the sizes of x_{n-k} as shares of that of x_n.

    Without statistics "in the same way" as Eq. 11, which takes h_{n-k-1} for x_{n-k}: f*_{n-k-1} / f*_{n-1}, and 1
    where there is no n-k-1. With statistics f_{n-k} / f_n from norms of the inputs, as the published code has it.
    """
    if statistics is not None:
        f = _mean(statistics.blocks[block.name].input_norms)
        return tuple(_ratio(_mean(statistics.blocks[one.name].input_norms), f) for one in block.predecessors)
    if not block.predecessors:
        return ()
    newest = merged_norms[block.predecessors[0].name]
    return tuple(
        _ratio(merged_norms[one.predecessors[0].name], newest) if one.predecessors else 1.0
        for one in block.predecessors
    )


def sum_eq13(block: LoRABlock, alphas: Sequence[float]) -> Tensor:
    """Eq. 13: A* = A_n + sum_k alpha_{n-k} A_{n-k}.  -> (r, in)"""
    A = block.lora_A.float().cpu()
    for alpha, previous in zip(alphas, block.predecessors, strict=True):
        A = A + alpha * previous.lora_A.float().cpu()
    return A


def merged_norm(W: Tensor, A: Tensor, B: Tensor, s: float) -> float:
    """f* = ||W + s B A||_F, without building B A.  (out, in), (r, in), (out, r)"""
    W, A, B = W.detach().double().cpu(), A.double(), B.double()
    square = W.square().sum() + 2 * s * ((B.T @ W) * A).sum() + s * s * ((B.T @ B) * (A @ A.T)).sum()
    return math.sqrt(max(float(square), 0.0))


def least_squares(block: LoRABlock, config: ResLoRAConfig, statistics: Statistics, ridge: float) -> Tensor:
    """A* = A_n + E[e_n x_n^T] E[x_n x_n^T]^-1: the minimum of E||(A_n x_n + e_n) - A* x_n||^2, so for every B_n.

    For `input` this is A_n (I + E[x_{n-1} x_n^T] E[x_n x_n^T]^-1). Exact where e_n is a linear map of x_n, as where a
    chain starts and in cross-attention's k and v, whose x_{n-1} is x_n (2 A_n, without any data). `ridge` times the
    mean of the diagonal keeps the inverse solvable, and pulls A* towards A_n where the data says nothing.  -> (r, in)
    """
    A = block.lora_A.detach().double().cpu()
    known = _known_extra(block, config)
    if known is not None:
        return (A + known).float()
    gram, cross = statistics.grams[block.input_name], statistics.blocks[block.name].cross
    assert cross is not None
    return (A + _regression(cross, gram, ridge)).float()


def path_map(block: LoRABlock, statistics: Statistics, ridge: float) -> Tensor:
    """M = E[x_{n-1} x_n^T] E[x_n x_n^T]^-1: the minimum of E||x_{n-1} - M x_n||^2, of the nearest predecessor.

    -> (in, in), float64; `ridge` as for `least_squares`
    """
    cross = statistics.crosses[block.predecessors[0].input_name, block.input_name]
    return _regression(cross, statistics.grams[block.input_name], ridge)


def explained_share(block: LoRABlock, statistics: Statistics, ridge: float) -> float | None:
    """1 - E||x_{n-1} - M x_n||^2 / E||x_{n-1}||^2: how much of the nearest predecessor's input is a linear map of x_n.

    `None` where a chain starts, and where the statistics have no such moments (Eqs. 1 and 3 need none).
    """
    if not block.predecessors:
        return None
    earlier = block.predecessors[0].input_name
    if earlier == block.input_name:
        return 1.0
    cross, whole = statistics.crosses.get((earlier, block.input_name)), statistics.squares[earlier]
    if cross is None or whole == 0:
        return None
    M, gram = path_map(block, statistics, ridge), statistics.grams[block.input_name]
    return float(2 * (M * cross).sum() - ((M @ gram) * M).sum()) / whole


def _regression(cross: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """E[y x^T] (E[x x^T] + ridge)^-1.  (k, in), (in, in) -> (k, in)"""
    if ridge == 0:  # E[x x^T] can be singular: a LayerNorm's outputs lack a direction. Sums were made in float32.
        least_norm: Tensor = torch.linalg.lstsq(gram, cross.T, rcond=1e-6, driver="gelsd").solution
        return least_norm.T
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    found: Tensor = torch.cholesky_solve(cross.T, torch.linalg.cholesky(gram)).T
    return found


def branch_error(block: LoRABlock, config: ResLoRAConfig, A: Tensor, statistics: Statistics) -> float | None:
    """sqrt(E||B (A_n x + e) - B A* x||^2 / E||B (A_n x + e)||^2), in closed form from second moments.

    Where e_n is M x_n with a known M, the norms of the matrices stand for those of the outputs.
    `None` for a residual without e_n, or where the branch is zero.
    """
    if config.residual not in ("input", "middle"):
        return None
    A_n, B = block.lora_A.detach().double().cpu(), block.lora_B.detach().double().cpu()
    known = _known_extra(block, config)
    if known is not None:
        whole, missed = B @ (A_n + known), B @ (A_n + known - A.double())
        return float(missed.norm() / whole.norm()) if whole.norm() > 0 else None
    sums, gram = statistics.blocks[block.name], statistics.grams[block.input_name]
    cross, extra = sums.cross, sums.extra
    assert cross is not None and extra is not None

    def square(D: Tensor) -> float:
        """E||B (e + D x)||^2.  D: (r, in)"""
        moment = extra + D @ cross.T + cross @ D.T + D @ gram @ D.T  # E[(e + D x)(e + D x)^T], (r, r)
        return max(float(((B.T @ B) * moment).sum()), 0.0)

    energy = square(A_n)
    return math.sqrt(square(A_n - A.double()) / energy) if energy > 0 else None


def _known_extra(block: LoRABlock, config: ResLoRAConfig) -> Tensor | None:
    """M with e_n = M x_n where the equations alone give it, else `None`.  -> (r, in), float64"""
    A = block.lora_A.detach().double().cpu()
    if config.residual == "frozen":
        return through_map(block, config) - A
    if not block.predecessors:
        return _alpha_of_start(config) * A
    if not block.shares_input:
        return None
    if config.residual == "input":
        return A
    return torch.stack([previous.lora_A.detach().double().cpu() for previous in block.predecessors]).sum(0)


def through_map(block: LoRABlock, config: ResLoRAConfig) -> Tensor:
    """A_n (I + M_n) of residual `frozen`, exact.  -> (r, in), float64"""
    M = None if block.lora_M is None else block.lora_M.detach().double().cpu()
    A = block.lora_A.detach().double().cpu()
    return A + A @ M if M is not None else with_map(block, A, config)


def _alpha_of_start(config: ResLoRAConfig) -> float:
    return 1.0 if config.doubles_start else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
