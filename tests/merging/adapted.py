"""An adapted toy model with its inputs laid open, for tests of rules and statistics."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from reslora_sd import ResLoRAAdapter, ResLoRAConfig, add_reslora
from reslora_sd.blocks.tape import listening
from tests.toys import TARGETS, ToyModel, ids_for, move_away_from_zero, toy

LAYERS = 4


def adapted_toy(residual: str, targets: tuple[str, ...] = TARGETS, **settings: Any) -> tuple[ToyModel, ResLoRAAdapter]:
    """A toy with blocks that have left zero."""
    model = toy(LAYERS).eval()
    adapter = add_reslora(model, ResLoRAConfig(residual=residual, r=3, target_modules=targets, **settings))
    move_away_from_zero(adapter, std=0.3)
    return model, adapter


@functools.cache
def rows_of(model: ToyModel, seed: int) -> dict[str, Tensor]:
    """{block: its x (tokens, in), float64} of one forward pass; run once for each model and seed."""
    found: dict[str, Tensor] = {}
    with listening(lambda inputs: found.update({name: x.flatten(0, -2).double() for name, x in inputs.items()})):
        model(ids_for(seed))
    return found


def parts_of(adapter: ResLoRAAdapter, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and the frozen W of a block, float64."""
    block = adapter.blocks[name]
    weight = adapter.model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return block.lora_A.detach().double(), block.lora_B.detach().double(), weight.detach().double()


def chain_of(projection: str) -> list[str]:
    """Names of a projection's blocks in their order."""
    return [f"layers.{layer}.{projection}" for layer in range(LAYERS)]


def norm(x: Tensor) -> float:
    """The Frobenius norm, written out."""
    return float(torch.sqrt((x.double() ** 2).sum()))
