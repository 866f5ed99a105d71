"""A pair without paths: what a merge makes of a block, and what LoRA files hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PlainBlock:
    """One pair beside a linear or a convolution: delta W = scaling * lora_B @ lora_A.

    A convolution's `lora_A` is a convolution itself, of the layer's own kernel; its `lora_B` is one of 1 x 1.
    """

    lora_A: Tensor
    """(r, in), or (r, in, kh, kw)"""
    lora_B: Tensor
    """(out, r); of a convolution also (out, r, 1, 1)"""
    scaling: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.scaling):
            raise ValueError(f"The scale of a LoRA's pair is {self.scaling}. It must be a finite number.")

    @property
    def r(self) -> int:
        """The rank."""
        return self.lora_A.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight: (out, in), or (out, in, kh, kw)."""
        return (self.lora_B.shape[0], *self.lora_A.shape[1:])

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A (r, in * kh * kw) and B (out, r), also of a convolution."""
        return self.lora_A.flatten(1), self.lora_B.flatten(1)

    def delta_weight(self) -> Tensor:
        """(out, in) or (out, in, kh, kw), float32"""
        A, B = self.matrices()
        return (self.scaling * (B.float() @ A.float())).reshape(self.shape)

    def cut(self, rank: int) -> tuple[PlainBlock, float]:
        """The best pair of at most `rank` (see `cut_pair`), and the share ||cut - whole||_F / ||whole||_F it costs."""
        A, B, error = cut_pair(*self.matrices(), rank)
        shapes = (len(A), *self.lora_A.shape[1:]), (len(B), len(A), *self.lora_B.shape[2:])
        return PlainBlock(A.reshape(shapes[0]), B.reshape(shapes[1]), self.scaling), error

    def norm(self) -> float:
        """||delta W||_F, from the thin factors."""
        A, B = (matrix.detach().double() for matrix in self.matrices())
        return abs(self.scaling) * math.sqrt(max(float(((B.T @ B) * (A @ A.T)).sum()), 0.0))


def cut_pair(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best pair of a rank for B A in the Frobenius norm (Eckart and Young), found from the small factors.

    Args:
        A: (r, in)
        B: (out, r)
        rank: a pair of no higher rank stays as it is.

    Returns:
        A (rank, in), B (out, rank), and the relative error ||cut - whole||_F / ||whole||_F that the cut costs.
    """
    if rank >= A.shape[0]:
        return A, B, 0.0
    Q_B, R_B = torch.linalg.qr(B.double())
    Q_A, R_A = torch.linalg.qr(A.double().T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T)
    root = S[:rank].sqrt()
    whole = float(S.norm())
    error = float(S[rank:].norm()) / whole if whole else 0.0
    return (root[:, None] * (Vh[:rank] @ Q_A.T)).float(), (Q_B @ U[:, :rank] * root).float(), error
