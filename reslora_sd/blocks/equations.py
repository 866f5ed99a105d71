"""Equations 1 to 4 of the ResLoRA paper (sections 3.1 and 3.2).

All four have the form  h = W x_n + s B (middle),  with W frozen and s = lora_alpha / r. They differ in what stands
in the middle, and Eq. 3 also in B. The functions below are the middles; `up` is what they share.

Paper's letters: A (r, in) is `lora_A`, B (out, r) is `lora_B`, x_n the input of block n, x_{n-1} that of its
predecessor. Several blocks that read the same x may be stacked along r: the equations do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def lora(x: Tensor, A: Tensor) -> Tensor:
    """Eq. 1: A_n x_n.  (..., in), (r, in) -> (..., r)"""
    return x @ A.mT


def input_shortcut(x: Tensor, x_prev: Tensor, A: Tensor) -> Tensor:
    """Eq. 2: A_n (x_n + x_{n-1}).  (..., in), (..., in), (r, in) -> (..., r)"""
    return (x + x_prev) @ A.mT


def frozen_path(A: Tensor, M: Tensor) -> Tensor:
    """Eq. 2 with M x_n in the place of x_{n-1}, as a matrix: A_n (I + M).  (r, in), (in, in) -> (r, in)"""
    return torch.addmm(A, A, M)


def block_shortcut(A: Sequence[Tensor], B: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Eq. 3 as one pair of matrices: sum_k B_{n-k} A_{n-k} = [B_n B_{n-1} ...] [A_n; A_{n-1}; ...].

    m + 1 matrices (r, in), m + 1 matrices (out, r) -> ((m+1) r, in), (out, (m+1) r)
    """
    return torch.cat(tuple(A)), torch.cat(tuple(B), dim=1)


def middle_shortcut(Ax: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Eq. 4: A_n x_n + sum_{k>=1} A_{n-k} x_{n-k}.  (..., r), m times (..., r) -> (..., r)"""
    for term in earlier:
        Ax = Ax + term
    return Ax


def up(h: Tensor, middle: Tensor, B: Tensor, s: float) -> Tensor:
    """h + s B middle, in one pass over h.  (..., out), (..., r), (out, r) -> (..., out)"""
    rows = torch.addmm(h.flatten(0, -2), middle.flatten(0, -2), B.mT, alpha=s)  # (tokens, out)
    return rows.view(h.shape)
