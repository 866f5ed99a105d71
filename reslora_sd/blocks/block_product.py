"""Eq. 3 as one autograd node that keeps nothing but its inputs.

Plain autograd would keep, for every block, the stacked matrices and a middle of rank (m+1) r until the backward pass.
Making them again there costs one thin product and saves that memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .equations import block_shortcut


class BlockProduct(torch.autograd.Function):
    """h + s [B_n B_{n-1} ...] [A_n; A_{n-1}; ...] x (Eq. 3).

    Inputs: h (tokens, out), x (tokens, in), s, then m + 1 matrices A (r, in) and m + 1 matrices B (out, r).
    Products run in the dtype of h, which is the frozen linear's.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, x: Tensor, s: float, *matrices: Tensor) -> Tensor:
        """-> (tokens, out)"""
        ctx.s, ctx.dtype = s, h.dtype
        ctx.save_for_backward(x, *matrices)
        A, B, x = _stack(matrices, x, h.dtype)
        return torch.addmm(h, x @ A.mT, B.mT, alpha=s)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (tokens, out) -> gradients of h, x, nothing for s, the A's and the B's."""
        saved_x, *matrices = ctx.saved_tensors
        A, B, x = _stack(matrices, saved_x, ctx.dtype)
        of_middle = (gradient @ B) * ctx.s  # (tokens, (m+1) r)
        of_A = of_middle.mT @ x
        of_B = (gradient.mT @ (x @ A.mT)) * ctx.s
        of_x = (of_middle @ A).to(saved_x.dtype) if ctx.needs_input_grad[1] else None
        count = len(matrices) // 2
        dtype = matrices[0].dtype
        parts = [*of_A.to(dtype).chunk(count), *of_B.to(dtype).chunk(count, dim=1)]
        return gradient, of_x, None, *parts


def _stack(matrices: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    count = len(matrices) // 2
    A, B = block_shortcut(matrices[:count], matrices[count:])
    return A.to(dtype), B.to(dtype), x.to(dtype)
