"""Equations 1 to 4 and `frozen`, written slowly, apart from the package: einsum, a block at a time, lists of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def apply_site(world: dict[str, Any], site: str, linear: torch.nn.Linear, x: Tensor) -> Tensor:
    """W x + s B (middle) by the equations.

    `world` has: residual, pre_num, first_block, scaling, A and B by site, and `chains`: site -> earlier sites of its
    chain, nearest first. `seen` holds every site's x of the running forward pass.
    """
    seen: dict[str, Tensor] = world["seen"]
    seen[site] = x
    A: dict[str, Tensor] = world["A"]
    B: dict[str, Tensor] = world["B"]
    s: float = world["scaling"]
    h = torch.einsum("oi,bti->bto", linear.weight, x)
    if linear.bias is not None:
        h = h + linear.bias
    earlier = world["chains"][site]
    earlier = earlier if world["pre_num"] == -1 else earlier[: world["pre_num"]]

    def through(matrix: Tensor, value: Tensor) -> Tensor:
        return torch.einsum("oi,bti->bto", matrix, value)

    if world["residual"] == "none":
        return h + s * through(B[site], through(A[site], x))
    if world["residual"] == "input":
        if earlier:
            x = x + seen[earlier[0]]
        elif world["first_block"] == "self":
            x = x + x
        return h + s * through(B[site], through(A[site], x))
    if world["residual"] == "block":
        for one in [site, *earlier]:
            h = h + s * through(B[one], through(A[one], x))
        return h
    if world["residual"] == "frozen":  # A (x + M x), A (x + x) where x_{n-1} is x_n
        if earlier and site in world["M"]:
            x = x + through(world["M"][site], x)
        elif earlier or world["first_block"] == "self":
            x = x + x
        return h + s * through(B[site], through(A[site], x))
    middle = through(A[site], x)
    for one in earlier:
        middle = middle + through(A[one], seen[one])
    return h + s * through(B[site], middle)


def world_of(adapter: Any, chains: dict[str, list[str]]) -> dict[str, Any]:
    """What `apply_site` needs, with copies of the adapter's parameters as leaves."""
    config = adapter.config
    return {
        "residual": config.residual,
        "pre_num": config.pre_num,
        "first_block": config.first_block,
        "scaling": config.lora_alpha / config.r,
        "chains": chains,
        "seen": {},
        "A": {name: block.lora_A.detach().clone().requires_grad_() for name, block in adapter.blocks.items()},
        "M": {name: block.lora_M.detach() for name, block in adapter.blocks.items() if block.lora_M is not None},
        "B": {name: block.lora_B.detach().clone().requires_grad_() for name, block in adapter.blocks.items()},
    }


class OracleLinear(torch.nn.Module):
    """A projection of a text model with its branch."""

    def __init__(self, name: str, linear: torch.nn.Linear, world: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.linear, self.world = name, linear, world

    def forward(self, x: Tensor) -> Tensor:
        return apply_site(self.world, self.name, self.linear, x)


class OracleProcessor:
    """Attention with W x + s B (middle) by the equations. All processors of a U-Net share `world`."""

    def __init__(self, name: str, world: dict[str, Any]) -> None:
        self.name, self.world = name, world

    def site(self, projection: str, linear: torch.nn.Linear, x: Tensor) -> Tensor:
        return apply_site(self.world, f"{self.name}.{projection}", linear, x)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = self.site("to_q", attn.to_q, hidden_states)
        k = self.site("to_k", attn.to_k, context)
        v = self.site("to_v", attn.to_v, context)
        heads = attn.heads
        batch, tokens, width = q.shape
        q, k, v = (t.reshape(batch, -1, heads, width // heads) for t in (q, k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / (width // heads) ** 0.5
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(batch, tokens, width)
        return self.site("to_out.0", attn.to_out[0], mixed)
