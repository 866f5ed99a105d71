"""A plain LoRA acting in a model for a while: no weight is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
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
        ValueError: the model lacks one of the layers, or has another size, or the LoRA is of several models.
    """
    layers = plain.linears_of(model)
    with ExitStack() as stack:
        stack.enter_context(branch_strength(0.0))
        for name, block in plain.blocks.items():
            adder = _adder if isinstance(layers[name], nn.Linear) else _convolution_adder
            stack.callback(layers[name].register_forward_hook(adder(block)).remove)
        yield


def _adder(block: PlainBlock) -> Any:
    def add(linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        A, B = (matrix.to(output.device, output.dtype) for matrix in block.matrices())
        return up(output, lora(args[0].to(output.dtype), A), B, block.scaling)

    return add


def _convolution_adder(block: PlainBlock) -> Any:
    def add(layer: nn.Conv2d, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        A, B = (matrix.to(output.device, output.dtype) for matrix in block.matrices())
        kernel = A.reshape(block.r, layer.in_channels, *layer.kernel_size)
        x = F.conv2d(args[0].to(output.dtype), kernel, None, layer.stride, layer.padding, layer.dilation)
        return output + block.scaling * F.conv2d(x, B[:, :, None, None])

    return add
