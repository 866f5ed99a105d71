"""The numbers of a LoRA file: the scale in `lora_B`, the precision, and what rounding costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from ..blocks.plain import PlainBlock
from ..config import Precision
from .lora_file import Blocks

logger = logging.getLogger("reslora_sd")

MOST_ERROR = 0.02
"""A file of a lower precision than float32 that would be farther off is not written. bf16 usually costs 0.003."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Rounded:
    """Blocks as a file holds them."""

    components: Mapping[str, Blocks]
    precision: Precision
    """float32 where the numbers don't fit the one that was asked for."""
    error: float
    """||delta W, rounded - delta W|| / ||delta W|| over all blocks."""


def rounded(
    components: Mapping[str, Blocks],
    precision: Precision,
    scaling: Callable[[PlainBlock], float],
    file: object,
) -> Rounded:
    """The same LoRA with another scale beside its matrices, the rest folded into `lora_B`, and rounded once.

    Args:
        scaling: a block's new scale.
        file: what messages call it.

    Raises:
        ValueError: the precision is none of the three, there is no block, or a number is NaN or infinite.
    """
    if precision not in DTYPES:
        raise ValueError(f"The precision is {precision!r}. Choose one of {', '.join(get_args(Precision))}.")
    found = {
        component: {name: _cast(block, scaling(block), DTYPES[precision]) for name, block in blocks.items()}
        for component, blocks in components.items()
        if blocks
    }
    if not found:
        raise ValueError(f"The LoRA has no block, so {file} isn't written. Merge an adapter that has some.")
    odd = next((f"{part}.{name}" for part, blocks in found.items() for name in blocks if not _fits(blocks[name])), None)
    error = _error(components, found) if odd is None else math.inf
    if precision == "float32" and odd is not None:
        raise ValueError(f"{odd} holds NaN or infinity, so {file} isn't written. The training broke: use a lower rate.")
    if precision == "float32" or error <= MOST_ERROR:
        return Rounded(found, precision, error)
    why = f"{odd} has a number too large" if odd else f"its numbers are so small that {100 * error:.0f} % would be lost"
    logger.warning("%s is saved in float32: %s for %s. Choose bf16 for a small file.", file, why, precision)
    return rounded(components, "float32", scaling, file)


def _cast(block: PlainBlock, scaling: float, dtype: torch.dtype) -> PlainBlock:
    A, B = block.lora_A.detach().cpu().float(), block.lora_B.detach().cpu().float()
    if A.ndim > B.ndim:  # a convolution, whose readers want a convolution of 1 x 1
        B = B.reshape(*B.shape, *(1,) * (A.ndim - B.ndim))
    if scaling != block.scaling:  # both may be 0
        B = B * (block.scaling / scaling)
    return PlainBlock(A.to(dtype), B.to(dtype), scaling)


def _fits(block: PlainBlock) -> bool:
    return bool(block.lora_A.isfinite().all() and block.lora_B.isfinite().all())


def _error(before: Mapping[str, Blocks], after: Mapping[str, Blocks]) -> float:
    pairs = [(blocks[name], after[part][name]) for part, blocks in before.items() for name in blocks]
    difference = sum(_distance(one, other) ** 2 for one, other in pairs)
    whole = sum(one.norm() ** 2 for one, _ in pairs)
    return math.sqrt(difference / whole) if whole else 0.0


def _distance(one: PlainBlock, other: PlainBlock) -> float:
    """||B' A' - B A||_F from thin factors: (B' - B) A' + B (A' - A), so that nothing cancels."""
    A, B = _double(one)
    A_new, B_new = _double(other)
    left, right = torch.cat([B_new - B, B], 1), torch.cat([A_new, A_new - A])
    return math.sqrt(max(float(((left.T @ left) * (right @ right.T)).sum()), 0.0))


def _double(block: PlainBlock) -> tuple[Tensor, Tensor]:
    """A and B with the scale, float64."""
    A, B = (matrix.detach().cpu().double() for matrix in block.matrices())
    return A, B * block.scaling
