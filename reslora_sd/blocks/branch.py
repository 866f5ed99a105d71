"""The branches of blocks that read the same input: Eqs. 1 to 4 and `frozen`, arranged for few and large products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import ResLoRAConfig
from . import equations
from .block import LoRABlock
from .block_product import BlockProduct
from .frozen import with_map
from .tape import Tape


def add_branches(
    blocks: Sequence[LoRABlock], x: Tensor, outputs: Sequence[Tensor], config: ResLoRAConfig, tape: Tape | None
) -> list[Tensor]:
    """Adds to the frozen linears' outputs what their blocks give.

    Args:
        blocks: blocks whose linears read `x`.
        x: (..., in).
        outputs: W x of each frozen linear, (..., out).
        tape: record of this forward pass.

    Returns:
        W x + s B (middle) for each block, (..., out).

    Raises:
        RuntimeError: there is no tape, or a predecessor has not run.
    """
    if tape is None:
        raise RuntimeError(
            f"{blocks[0].name} got no tape. Call the model itself, model(...): calling model.forward(...) or one of "
            "its parts leaves out the hook that makes the tape."
        )
    tape.hear(x, [block.name for block in blocks])
    if tape.strength == 0:
        return list(outputs)
    if config.residual == "block":
        return [_eq3(block, x, h, tape) for block, h in zip(blocks, outputs, strict=True)]
    shared = len(blocks) == 1 or _shares_input(blocks, config)
    groups: Sequence[Sequence[LoRABlock]] = [blocks] if shared else [[block] for block in blocks]
    middles = [middle for group in groups for middle in _middles(group, x, config, tape)]
    return [
        equations.up(h, middle.to(h.dtype), block.lora_B.to(h.dtype), block.scaling * tape.strength)
        for block, middle, h in zip(blocks, middles, outputs, strict=True)
    ]


def _shares_input(blocks: Sequence[LoRABlock], config: ResLoRAConfig) -> bool:
    """Whether one product with stacked A's serves all: the same x, x_{n-1} (or map) and no dropout of their own."""
    if any(block.dropout and block.training for block in blocks):
        return False
    if config.residual not in ("input", "frozen"):
        return True
    return len({tuple(previous.input_name for previous in block.predecessors) for block in blocks}) == 1


def _middles(group: Sequence[LoRABlock], x: Tensor, config: ResLoRAConfig, tape: Tape) -> Sequence[Tensor]:
    """What each block's B is applied to, but for Eq. 3.  (..., in) -> (..., r) for each block"""
    A = torch.cat([block.lora_A for block in group]) if len(group) > 1 else group[0].lora_A
    if config.residual == "frozen":
        A = with_map(group[0], A, config)
    A = A.to(x.dtype)
    product = _eq2(group, x, A, config, tape) if config.residual == "input" else equations.lora(group[0].drop(x), A)
    middles: Sequence[Tensor] = torch.split(product, [block.r for block in group], dim=-1)
    if config.residual == "middle":
        return [_eq4(block, middle, config, tape) for block, middle in zip(group, middles, strict=True)]
    return middles


def _eq2(group: Sequence[LoRABlock], x: Tensor, A: Tensor, config: ResLoRAConfig, tape: Tape) -> Tensor:
    """One tensor serves all blocks that read x, so that the tape keys it by its own name.  -> (..., r)"""
    block = group[0]
    if any(member.readers for member in group):
        tape.write(block.input_name, x, sum(member.readers for member in group))
    if block.predecessors:
        x_prev = tape.read(block.predecessors[0].input_name, block.name, len(group))
        if block.dropout and block.training:
            return equations.lora(block.drop(x + x_prev), A)
        return equations.input_shortcut(x, x_prev, A)
    Ax = equations.lora(block.drop(x), A)
    return Ax * 2 if config.doubles_start else Ax  # x_{n-1} = x_n: A (x_n + x_n)


def _eq3(block: LoRABlock, x: Tensor, h: Tensor, tape: Tape) -> Tensor:
    """(..., in), (..., out) -> (..., out)"""
    blocks = (block, *block.predecessors)
    rows: Tensor = BlockProduct.apply(  # type: ignore[no-untyped-call]
        h.flatten(0, -2),
        block.drop(x).flatten(0, -2),
        block.scaling * tape.strength,
        *[one.lora_A for one in blocks],
        *[one.lora_B for one in blocks],
    )
    return rows.view(h.shape)


def _eq4(block: LoRABlock, Ax: Tensor, config: ResLoRAConfig, tape: Tape) -> Tensor:
    """With all predecessors (pre_num -1) the tape holds running sums, so that one term stands for all of them."""
    runs_on = config.pre_num == -1
    sources = block.predecessors[:1] if runs_on else block.predecessors
    middle = equations.middle_shortcut(Ax, [tape.read(source.name, block.name) for source in sources])
    if block.readers:
        tape.write(block.name, middle if runs_on else Ax, block.readers)
    return middle
