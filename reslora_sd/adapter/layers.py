"""The layers that put a ResLoRA branch beside a frozen one, which they take the place of.

Their tape lies in a context variable of the thread, which the model's own hooks set and reset (`text.py`, `unet.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks.block import LoRABlock
from ..blocks.branch import add_branches
from ..blocks.tape import current_tape
from ..config import ResLoRAConfig


class ResLoRALinear(nn.Linear):
    """W x + b + s B (middle) by Eqs. 1 to 4.  (..., in) -> (..., out)

    Shares weight and bias with the linear whose place it takes, so that their names in `state_dict()` stay and
    nothing is copied; the trainable pair is `block.lora_A` and `block.lora_B`.

    Args:
        linear: the frozen linear.
        block: its block, with predecessors.
        config: the adapter's settings.
    """

    def __init__(self, linear: nn.Linear, block: LoRABlock, config: ResLoRAConfig) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would draw a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.block = block
        self.config = config
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)

        Raises:
            RuntimeError: no forward pass of the whole model is under way, or a predecessor was skipped.
        """
        output = F.linear(x, self.weight, self.bias)
        return add_branches([self.block], x, [output], self.config, current_tape())[0]


class ResLoRAConv1x1(nn.Conv2d):
    """The same beside a convolution of 1 x 1, which is a linear layer of every pixel.

    (batch, in, height, width) -> (batch, out, height, width)

    Args:
        convolution: the frozen one, of stride 1, without groups.
        block: its block, with predecessors.
        config: the adapter's settings.
    """

    def __init__(self, convolution: nn.Conv2d, block: LoRABlock, config: ResLoRAConfig) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in vars(convolution).items() if name in _CONVOLUTION})
        self.weight, self.bias = convolution.weight, convolution.bias
        self.block = block
        self.config = config
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height, width)

        Raises:
            RuntimeError: as `ResLoRALinear.forward`.
        """
        output = super().forward(x)
        rows, pixels = output.flatten(2).mT, x.flatten(2).mT  # (batch, height * width, out), (..., in)
        rows = add_branches([self.block], pixels, [rows], self.config, current_tape())[0]
        return rows.mT.reshape(output.shape)


_CONVOLUTION = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed", "output_padding"),
    *("groups", "padding_mode", "_reversed_padding_repeated_twice"),
)
"""What a convolution knows beside its weights."""


def put_in(model: nn.Module, blocks: Mapping[str, LoRABlock], config: ResLoRAConfig) -> None:
    """Puts a layer with a branch in the place of every layer that has a block. After an error all is as it was."""
    put: list[str] = []
    try:
        for name, block in blocks.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            ours = (
                ResLoRALinear(layer, block, config)
                if isinstance(layer, nn.Linear)
                else ResLoRAConv1x1(layer, block, config)
            )
            model.set_submodule(name, ours)
            put.append(name)
    except BaseException:
        take_out(put, model)
        raise


def take_out(names: Sequence[str], model: nn.Module) -> None:
    """The reverse of `put_in`, also on a copy of the model."""
    for name in names:
        ours = model.get_submodule(name)
        assert isinstance(ours, ResLoRALinear | ResLoRAConv1x1)
        plain: nn.Linear | nn.Conv2d
        if isinstance(ours, ResLoRALinear):
            plain = nn.Linear(1, 1, bias=False, device="meta")
            plain.in_features, plain.out_features = ours.in_features, ours.out_features
        else:
            plain = nn.Conv2d(1, 1, 1, bias=False, device="meta")
            plain.__dict__.update({key: value for key, value in vars(ours).items() if key in _CONVOLUTION})
        plain.weight, plain.bias = ours.weight, ours.bias
        model.set_submodule(name, plain.train(ours.training))
