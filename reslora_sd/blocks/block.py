"""One LoRA block: the two trainable matrices beside one frozen linear."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import ResLoRAConfig
from ..plan.links import LinkPlan, Site


class LoRABlock(nn.Module):
    """The trainable pair beside one frozen linear: x -> s B A x.  (..., in) -> (..., out)

    `lora_M` (in, in) is what residual `frozen` puts in the place of a path: see `frozen.py`. Blocks that read the same
    tensors share one, so that it is a parameter, which is moved once; it never trains.

    `lora_A` (r, in) starts uniform in +-1/sqrt(in) and `lora_B` (out, r) at zero, as in microsoft/LoRA
    `loralib/layers.py`, so that a new adapter changes nothing. Both are float32 until somebody casts them.

    Args:
        site: the linear, and what it reads.
        config: the adapter's settings, of which the block takes rank, scale and dropout.
        predecessors: blocks of its chain before it, nearest first. They are plain references: no block owns another,
            so that each parameter has one name.
        readers: how many later blocks read what this one leaves on the tape.
    """

    def __init__(
        self, site: Site, config: ResLoRAConfig, predecessors: tuple[LoRABlock, ...] = (), readers: int = 0
    ) -> None:
        super().__init__()
        self.name = site.name
        """Path of the frozen linear in the model, for example `mid_block...attn1.to_q`."""
        self.input_name = site.input_name
        """Name of the tensor that the linear reads; q, k and v of one self-attention share it."""
        self.scaling = config.scaling
        self.dropout = config.lora_dropout
        self.predecessors = predecessors
        self.readers = readers
        self.lora_A = nn.Parameter(torch.empty(config.r, site.in_features))
        self.lora_B = nn.Parameter(torch.empty(site.out_features, config.r))
        self.lora_M: nn.Parameter | None
        self.register_parameter("lora_M", None)
        self.reset_parameters()

    @property
    def r(self) -> int:
        """The rank."""
        return self.lora_A.shape[0]

    @property
    def shares_input(self) -> bool:
        """Whether all predecessors read the same tensor as this block, as k and v of cross-attention do."""
        return all(previous.input_name == self.input_name for previous in self.predecessors)

    def reset_parameters(self) -> None:
        """Draws `lora_A` from torch's global generator and sets `lora_B` to zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def drop(self, x: Tensor) -> Tensor:
        """LoRA's dropout on the input of the branch, while training.  (..., in) -> (..., in)"""
        return nn.functional.dropout(x, self.dropout) if self.training and self.dropout else x

    def extra_repr(self) -> str:
        return f"in={self.lora_A.shape[1]}, out={self.lora_B.shape[0]}, r={self.r}, scaling={self.scaling:g}"


def make_blocks(plan: LinkPlan) -> dict[str, LoRABlock]:
    """The blocks of a plan by name, on the CPU, in the order in which the model runs them."""
    blocks: dict[str, LoRABlock] = {}
    readers = plan.readers()
    for link in plan:
        name = link.site.name
        predecessors = tuple(blocks[earlier] for earlier in link.predecessors)
        blocks[name] = LoRABlock(link.site, plan.config, predecessors, readers[name])
    return blocks
