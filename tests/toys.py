"""A model of a few linears in plain torch, for tests that need blocks in a model and no architecture of anybody's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reslora_sd.blocks.frozen import mapped_blocks, share_map

WIDTH = 8
TEXT_WIDTH = 5


class _Layer(nn.Module):
    """q and k read the hidden states, o what they make, and t a text that all layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o = nn.Linear(WIDTH, WIDTH)
        self.t = nn.Linear(TEXT_WIDTH, WIDTH)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.o(torch.tanh(self.q(x)) * self.k(x)) + self.t(text)
        return x / x.square().mean().sqrt()


class ToyModel(nn.Module):
    """(batch, tokens) ids -> (batch, tokens, WIDTH). `add_reslora` takes it for a text model."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, WIDTH)
        self.text = nn.Embedding(32, TEXT_WIDTH)
        self.layers = nn.ModuleList(_Layer() for _ in range(layers))

    def get_input_embeddings(self) -> nn.Module:
        """As transformers' models have it."""
        return self.embedding

    def forward(self, input_ids: Tensor) -> Any:
        x, text = self.embedding(input_ids), self.text(input_ids)
        for layer in self.layers:
            x = layer(x, text)
        return x


TARGETS = ("q", "k", "o", "t")


def toy(layers: int = 4, seed: int = 0) -> ToyModel:
    """Random weights."""
    torch.manual_seed(seed)
    return ToyModel(layers)


def ids_for(seed: int, batch: int = 2, tokens: int = 6) -> Tensor:
    """Random token ids.  -> (batch, tokens)"""
    return torch.randint(0, 32, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def move_away_from_zero(adapter: Any, seed: int = 2, std: float = 0.2) -> None:
    """lora_B starts at zero, where wrong code passes every test."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std
            parameter.copy_(noise)
    if hasattr(adapter, "named_maps"):
        give_maps(adapter, generator)


def give_maps(adapter: Any, generator: torch.Generator | None = None) -> Any:
    """Random maps, for tests of residual `frozen` that measure none: a model must have them before it runs."""
    generator = generator or torch.Generator().manual_seed(3)
    for members in mapped_blocks(adapter.blocks, adapter.config).values():
        size = members[0].lora_A.shape[1]
        share_map(members, torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5)
    return adapter
