"""The attention processor that puts ResLoRA's branches beside q, k, v and o of a diffusers `Attention`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import LoRABlock
from .branch import add_branches
from .config import ResLoRAConfig
from .tape import Tape

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

_SLOTS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}


class ResLoRAAttnProcessor(nn.Module):
    """Scaled dot-product attention whose projections have ResLoRA blocks: Eqs. 1 to 4, by `config.residual`.

    Does what diffusers' `AttnProcessor2_0` does (models/attention_processor.py), with W x + s B (middle) in the place
    of W x. Being a module, it carries the blocks' parameters; being in the place of the processor, it leaves the
    frozen linears as they are.

    Args:
        blocks: blocks by projection: `to_q`, `to_k`, `to_v`, `to_out.0`. A projection may be missing.
    """

    def __init__(self, blocks: Mapping[str, LoRABlock], config: ResLoRAConfig) -> None:
        super().__init__()
        self.config = config
        for projection, block in blocks.items():
            self.add_module(_SLOTS[projection], block)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        reslora_tape: Tape | None = None,
    ) -> Tensor:
        """(batch, tokens, dim) or (batch, dim, height, width) -> the same shape."""
        skip = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if skip.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (batch, height * width, dim)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)

        query, key, value = self._inner(attn, hidden_states, encoder_hidden_states, reslora_tape)
        mixed = _attend(attn, query, key, value, attention_mask)  # (batch, tokens, inner)
        out: Tensor = attn.to_out[1](self._project(attn.to_out[0], "to_out", mixed, reslora_tape))

        if skip.ndim == 4:
            out = out.transpose(1, 2).reshape(skip.shape)
        if attn.residual_connection:
            out = out + skip
        return out if attn.rescale_output_factor == 1 else out / attn.rescale_output_factor

    def _inner(
        self, attn: Attention, x: Tensor, context: Tensor | None, tape: Tape | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q of the picture, and k and v of the picture or of the text.  (batch, tokens, inner) each"""
        if context is None:
            query, key, value = self._group(attn, ("to_q", "to_k", "to_v"), x, tape)
            return query, key, value
        if attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        (query,) = self._group(attn, ("to_q",), x, tape)
        key, value = self._group(attn, ("to_k", "to_v"), context, tape)
        return query, key, value

    def _group(self, attn: Attention, names: tuple[str, ...], x: Tensor, tape: Tape | None) -> list[Tensor]:
        """Projections of one input; those without a block stay as they are."""
        outputs = {name: getattr(attn, name)(x) for name in names}
        blocks = {name: self._modules[name] for name in names if name in self._modules}
        if blocks:
            own = [outputs[name] for name in blocks]
            outputs.update(zip(blocks, add_branches([*blocks.values()], x, own, self.config, tape), strict=True))  # type: ignore[list-item]
        return list(outputs.values())

    def _project(self, linear: nn.Module, name: str, x: Tensor, tape: Tape | None) -> Tensor:
        block = self._modules.get(name)
        output = linear(x)
        return add_branches([block], x, [output], self.config, tape)[0] if block is not None else output  # type: ignore[list-item]


def _attend(attn: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v by heads: q (batch, tokens, inner), k and v (batch, context, inner) -> as q"""
    batch, context, _ = key.shape
    if mask is not None:
        mask = attn.prepare_attention_mask(mask, context, batch)
        mask = mask.view(batch, attn.heads, -1, mask.shape[-1])
    query, key, value = (
        t.view(batch, -1, attn.heads, t.shape[-1] // attn.heads).transpose(1, 2) for t in (query, key, value)
    )
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (batch, heads, tokens, inner/heads)
    return mixed.transpose(1, 2).flatten(2)
