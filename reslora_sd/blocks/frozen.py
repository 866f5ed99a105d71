"""The maps of residual `frozen`: M_n, with M_n x_n in the place of x_{n-1} in Eq. 2.

M_n is measured once, on the base model's own inputs, and never trains. The branch s B_n A_n (I + M_n) x_n is then an
ordinary LoRA's at every step, with lora_A = A_n (I + M_n): nothing has to be remembered from block to block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import ResLoRAConfig
from .block import LoRABlock
from .equations import frozen_path


def with_map(block: LoRABlock, A: Tensor, config: ResLoRAConfig) -> Tensor:
    """A_n (I + M_n).  (r, in) -> (r, in); several blocks' A's may be stacked where they share a map

    M_n is known where x_{n-1} is x_n (cross-attention's k and v) and where a chain starts.

    Raises:
        RuntimeError: the map hasn't been measured.
    """
    if not block.predecessors:
        return A * 2 if config.doubles_start else A
    if block.shares_input:
        return A * 2
    if block.lora_M is None:
        raise RuntimeError(not_measured(block.name))
    with torch.autocast(A.device.type, enabled=False):
        return frozen_path(A, block.lora_M.to(A.dtype))


def not_measured(name: str) -> str:
    """What is wrong where a map is missing, and what to do."""
    return (
        f"The frozen path of {name} hasn't been measured. Call reslora_sd.merging.frozen.freeze_paths(adapter, "
        "batches, forward) before training, or load an adapter that was saved after it."
    )


def mapped_blocks(blocks: Mapping[str, LoRABlock], config: ResLoRAConfig) -> dict[str, list[LoRABlock]]:
    """The blocks that need a measured map, those with one map together, by the name of the first of them."""
    found: dict[tuple[str, str], list[LoRABlock]] = {}
    for block in blocks.values():
        if config.residual == "frozen" and block.predecessors and not block.shares_input:
            found.setdefault((block.predecessors[0].input_name, block.input_name), []).append(block)
    return {members[0].name: members for members in found.values()}


def share_map(blocks: list[LoRABlock], M: Tensor) -> None:
    """Gives blocks one map, on the device and in the precision of their own matrices.  (in, in)"""
    shared = nn.Parameter(M.detach().clone().to(blocks[0].lora_A), requires_grad=False)
    for block in blocks:
        block.lora_M = shared
