"""How blocks get into the transformers of Stable Diffusion 3 and FLUX, and a tape to them.

Their linear layers get nothing but their input: the tape is the thread's current one while the model runs. It also
travels in `joint_attention_kwargs`, so that gradient checkpointing, which runs a block again with its arguments, brings
the right one back; blocks don't see it there, since attention would warn of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..blocks.block import LoRABlock
from ..blocks.tape import TAPE, enter_tape, new_tape
from ..config import ResLoRAConfig
from .hooks import handed_with_tape, leave, leave_and_end, undone_after_error
from .layers import put_in, take_out

_BLOCKS = ("JointTransformerBlock", "SD3SingleTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock")
_KWARGS = "joint_attention_kwargs"


def attach_transformer(
    model: nn.Module, blocks: Mapping[str, LoRABlock], config: ResLoRAConfig
) -> tuple[Callable[[nn.Module], None], list[RemovableHandle]]:
    """Puts a layer with a branch in the place of every layer that has a block, and the hooks that carry the tape.

    Returns:
        what puts the layers back into the model, and the hooks' handles. After an error the model is as it was.
    """
    handles: list[RemovableHandle] = []
    put_in(model, blocks, config)
    restore = functools.partial(take_out, tuple(blocks))
    with undone_after_error(handles, lambda: restore(model)):
        handles.append(model.register_forward_pre_hook(_begin, with_kwargs=True))
        handles.append(model.register_forward_hook(leave_and_end, always_call=True))
        for module in model.modules():
            if type(module).__name__ in _BLOCKS:
                handles.append(module.register_forward_pre_hook(_enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
    return restore, handles


def _begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    position = list(inspect.signature(type(module).forward).parameters).index(_KWARGS) - 1  # without self
    given = args[position] if len(args) > position else kwargs.get(_KWARGS)
    strength = (given or {}).get("scale", 1.0)  # diffusers' own switch for the strength of a LoRA
    tape = new_tape(strength, bool(getattr(module, "is_gradient_checkpointing", False)), module)
    enter_tape(tape)
    handed = {**(given or {}), TAPE: tape}
    if len(args) > position:
        return (*args[:position], handed, *args[position + 1 :]), kwargs
    return args, {**kwargs, _KWARGS: handed}


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    handed = handed_with_tape(module, args, kwargs, "the model", "model")
    enter_tape(handed[TAPE])
    rest = {key: value for key, value in handed.items() if key != TAPE}
    left = tuple(rest if one is handed else one for one in args)
    return left, {key: rest if one is handed else one for key, one in kwargs.items()}
