"""A plain LoRA acting in a model for a while: no weight is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ..blocks.equations import lora, up
from ..blocks.plain import PlainBlock
from ..blocks.tape import branch_strength
from .plain_lora import PlainLoRA


@contextmanager
def applied(plain: PlainLoRA, model: nn.Module) -> Iterator[None]:
    """Within it, `model` gives what it would give with `plain` fused, but for rounding; its ResLoRA branches rest.

    For comparisons of merges on one model. Not for several threads at once: the hooks are the model's.

    Raises:
        ValueError: the model lacks one of the linears, or has another size.
    """
    linears = plain.linears_of(model)
    with ExitStack() as stack:
        stack.enter_context(branch_strength(0.0))
        for name, block in plain.blocks.items():
            stack.callback(linears[name].register_forward_hook(_adder(block)).remove)
        yield


def _adder(block: PlainBlock) -> Any:
    def add(linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        A, B = (matrix.to(output.device, output.dtype) for matrix in (block.lora_A, block.lora_B))
        return up(output, lora(args[0].to(output.dtype), A), B, block.scaling)

    return add
