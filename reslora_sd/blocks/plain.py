"""A pair without paths: what a merge makes of a block, and what LoRA files hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PlainBlock:
    """One pair: delta W = scaling * lora_B @ lora_A."""

    lora_A: Tensor
    """(r, in), float32"""
    lora_B: Tensor
    """(out, r), float32"""
    scaling: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.scaling):
            raise ValueError(f"The scale of a LoRA's pair is {self.scaling}. It must be a finite number.")

    @property
    def r(self) -> int:
        """The rank."""
        return self.lora_A.shape[0]

    def delta_weight(self) -> Tensor:
        """(out, in), float32"""
        return self.scaling * (self.lora_B.float() @ self.lora_A.float())

    def norm(self) -> float:
        """||delta W||_F, from the thin factors."""
        A, B = self.lora_A.detach().double(), self.lora_B.detach().double()
        return abs(self.scaling) * math.sqrt(max(float(((B.T @ B) * (A @ A.T)).sum()), 0.0))
