"""Starts of Eqs. 2 and 4: the A_n whose branch, with what its path adds, comes closest to the LoRA that is given.

Letters: G (k, in) is the given lora_A, d_n = G x_n what the branch's middle should be, u_n what A_n is applied to
(x_n + x_{n-1} for Eq. 2, x_n for Eq. 4), e_n = sum_k A_{n-k} x_{n-k} what Eq. 4's path adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks.block import LoRABlock


@dataclass
class _Sums:
    """Second moments of one block, float64 on the CPU, with p_n what no first guess of A_n explains."""

    cross: Tensor
    """Sum of p u^T, (k, in)"""
    extra: Tensor
    """Sum of p p^T, (k, k)"""
    energy: Tensor
    """Sum of d d^T, (k, k)"""


class StartSums:
    """Listens to forward passes of the model with the given LoRA in it; then `solve` has every block's A.

    Args:
        blocks: those that need data.
        given: G (k, in) of each.
        rows: for Eq. 4, the rows of A_n and columns of B_n that hold each block's G; empty for Eq. 2.
    """

    def __init__(
        self, blocks: Sequence[LoRABlock], given: Mapping[str, Tensor], rows: Mapping[str, Sequence[int]]
    ) -> None:
        self.blocks, self.given, self.rows = blocks, given, rows
        self.sums: dict[str, _Sums] = {}
        self.grams: dict[tuple[str, ...], Tensor] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> None:
        """Adds up one forward pass: {block name: its input (..., in)}."""
        added: set[tuple[str, ...]] = set()
        for block in self.blocks:
            x = inputs[block.name].flatten(0, -2).float()  # (tokens, in)
            earlier = [inputs[one.name].flatten(0, -2).float() for one in block.predecessors]
            G = self.given[block.name].to(x.device)
            d = x @ G.T  # (tokens, k)
            if self.rows:
                u, p = x, -sum_of_paths(block, self.rows[block.name], earlier)
            else:
                u, p = x + earlier[0], (x - earlier[0]) @ G.T / 2
            key = _key(block, bool(self.rows))
            if key not in added:
                added.add(key)
                gram = (u.T @ u).double().cpu()
                self.grams[key] = self.grams[key] + gram if key in self.grams else gram
            self._add(block.name, _Sums(*(m.double().cpu() for m in (p.T @ u, p.T @ p, d.T @ d))))

    def _add(self, name: str, more: _Sums) -> None:
        had = self.sums.get(name)
        if had is not None:
            more = _Sums(had.cross + more.cross, had.extra + more.extra, had.energy + more.energy)
        self.sums[name] = more

    def solve(self, block: LoRABlock, B: Tensor, ridge: float = 1e-4) -> tuple[Tensor, float]:
        """A = A_0 + E[p u^T] E[u u^T]^-1, the minimum of E||d - (A u + e)||^2, so for every B.

        The first guess A_0 is G for Eq. 4 and G/2 for Eq. 2, as if x_{n-1} were x_n; where the data says nothing, the
        ridge keeps it. For Eq. 4 this is the least-squares merge read backwards: merged by the same data, A is G again.

        Returns:
            A (k, in), float32, and sqrt(E||B(d - A u - e)||^2 / E||B d||^2), with B (out, k).
        """
        sums, gram = self.sums[block.name], self.grams[_key(block, bool(self.rows))]
        held = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        change = torch.cholesky_solve(sums.cross.T, torch.linalg.cholesky(held)).T
        G = self.given[block.name].double()
        moment = sums.extra - change @ sums.cross.T - sums.cross @ change.T + change @ gram @ change.T
        of_B = B.double().T @ B.double()
        missed, whole = float((of_B * moment).sum()), float((of_B * sums.energy).sum())
        error = math.sqrt(max(missed, 0.0) / whole) if whole > 0 else 0.0
        return (change + (G if self.rows else G / 2)).float(), error


def sum_of_paths(block: LoRABlock, rows: Sequence[int], earlier: Sequence[Tensor]) -> Tensor:
    """e_n of Eq. 4 in some rows: sum_k A_{n-k} x_{n-k}.  predecessors' (tokens, in) -> (tokens, k)"""
    terms = [x @ one.lora_A.detach().float()[list(rows)].T for x, one in zip(earlier, block.predecessors, strict=True)]
    return torch.stack(terms).sum(0)


def _key(block: LoRABlock, is_middle: bool) -> tuple[str, ...]:
    """Blocks with the same u share its Gram matrix."""
    return (block.input_name,) if is_middle else (block.input_name, block.predecessors[0].input_name)


def own_rows(blocks: Mapping[str, LoRABlock], sizes: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    """The rows of A_n that hold each block's G in Eq. 4, where all A_{n-k} x_{n-k} are added up row by row.

    Where r is enough for a block and its predecessors together, no two of them share a row: what a path brings meets
    columns of B_n that are zero, and the start is exact. Else the largest direction of a block gets the row in which
    its predecessors have the least.

    Args:
        sizes: singular values of each block's pair, in the order of G's rows.
    """
    rows: dict[str, list[int]] = {}
    loads: dict[str, list[float]] = {}
    for name, block in blocks.items():
        own = sizes.get(name, [])
        taken = [sum(loads[one.name][row] for one in block.predecessors) for row in range(block.r)]
        rows[name] = sorted(range(block.r), key=lambda row: (taken[row], row))[: len(own)]
        placed = dict(zip(rows[name], own, strict=True))
        loads[name] = [placed.get(row, 0.0) for row in range(block.r)]
    return rows


def waves(blocks: Mapping[str, LoRABlock], rows: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """After how many passes over the data each block of Eq. 4 can be settled: its path needs its predecessors' A.

    0 for those without data: at the start of a chain, with rows of their own, or where all predecessors read x_n too.
    """
    found: dict[str, int] = {}
    for name, block in blocks.items():
        meets = any(set(rows[name]) & set(rows[one.name]) for one in block.predecessors)
        before = max((found[one.name] for one in block.predecessors), default=0) if meets else 0
        found[name] = before + (meets and not block.shares_input)
    return found
