"""The attention processor that puts ResLoRA's branches beside q, k, v and o of a diffusers `Attention`, and how it and
the layers of `layers.py` get into a U-Net.

Attention gets the tape as an argument. What else a transformer runs gets only its input: there the tape is the thread's
current one, while the transformer or one of its blocks runs, which take it from the argument. So it is there, too, when
gradient checkpointing runs a block again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..blocks.block import LoRABlock
from ..blocks.branch import add_branches
from ..blocks.tape import TAPE, Tape, end_tape, enter_tape, new_tape
from ..config import ResLoRAConfig
from .hooks import handed_with_tape, leave, undone_after_error
from .layers import put_in, take_out

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

_PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")
_HOLDERS = ("Transformer2DModel", "BasicTransformerBlock")
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


def check_processors(unet: nn.Module) -> None:
    """Raises `ValueError` where the U-Net's processors are ours already, or would be lost."""
    for name, processor in cast(Any, unet).attn_processors.items():
        if isinstance(processor, ResLoRAAttnProcessor):
            raise ValueError("The U-Net has a ResLoRA adapter already. Call its remove() before adding another.")
        if type(processor).__name__ not in _PLAIN_PROCESSORS:
            raise ValueError(
                f"{name} is a {type(processor).__name__}, which ResLoRA would replace. "
                "Call unet.set_default_attn_processor() (and unet.unfuse_qkv_projections()) first."
            )


def attach_processors(
    unet: nn.Module, blocks: Mapping[str, LoRABlock], config: ResLoRAConfig
) -> tuple[Callable[[nn.Module], None], list[RemovableHandle]]:
    """Gives every `Attention` its processor, other layers with a block their branch, and the U-Net the tape's hooks.

    Returns:
        what puts the processors and layers back into the U-Net, and the hooks' handles. After an error the U-Net is as
        it was.
    """
    before = dict(cast(Any, unet).attn_processors)
    own = {name: _blocks_of(name.removesuffix(".processor"), blocks) for name in before}
    processors = {name: ResLoRAAttnProcessor(own[name], config).train(unet.training) for name in before}
    attended = {block.name for inside in own.values() for block in inside.values()}
    others = {name: block for name, block in blocks.items() if name not in attended}
    handles: list[RemovableHandle] = []
    put_in(unet, others, config)
    restore = functools.partial(_restore, before, tuple(others))
    with undone_after_error(handles, lambda: restore(unet)):
        cast(Any, unet).set_attn_processor(processors)
        handles.append(unet.register_forward_pre_hook(_hand_out_tape, with_kwargs=True))
        handles.append(unet.register_forward_hook(_take_back_tape, with_kwargs=True, always_call=True))
        for name, module in unet.named_modules():
            if type(module).__name__ in _HOLDERS and any(other.startswith(f"{name}.") for other in others):
                handles.append(module.register_forward_pre_hook(_enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
    return restore, handles


def _restore(processors: Mapping[str, Any], layers: Sequence[str], unet: nn.Module) -> None:
    cast(Any, unet).set_attn_processor(dict(processors))  # it empties the dict that it is given
    take_out(layers, unet)


def _blocks_of(attention: str, blocks: Mapping[str, LoRABlock]) -> dict[str, LoRABlock]:
    own = (name for name in blocks if name.startswith(attention + "."))
    return {name.removeprefix(attention + "."): blocks[name] for name in own}


def _hand_out_tape(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    position = 6  # of cross_attention_kwargs among the arguments of UNet2DConditionModel.forward
    given = args[position] if len(args) > position else kwargs.get("cross_attention_kwargs")
    strength = (given or {}).get("scale", 1.0)  # diffusers' own switch for the strength of a LoRA
    recomputes = bool(getattr(module, "is_gradient_checkpointing", False))
    handed = {**(given or {}), TAPE: new_tape(strength, recomputes, module)}
    if len(args) > position:
        return (*args[:position], handed, *args[position + 1 :]), kwargs
    return args, {**kwargs, "cross_attention_kwargs": handed}


def _take_back_tape(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    handed = args[6] if len(args) > 6 else kwargs["cross_attention_kwargs"]
    end_tape(handed[TAPE])


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Makes the tape that a transformer or a block of one is called with the current one."""
    enter_tape(handed_with_tape(module, args, kwargs, "the U-Net", "unet")[TAPE])
