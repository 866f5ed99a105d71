"""How blocks get into a text model, and a tape to them.

A text model hands nothing down to its projections but their input, so that the tape of a forward pass lies in a context
variable: set when the model's forward begins, reset when it ends, and brought back by `checkpoint_contexts` where
gradient checkpointing runs a layer again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..blocks.block import LoRABlock
from ..blocks.tape import checkpoint_contexts, enter_tape, new_tape
from ..config import ResLoRAConfig
from .hooks import leave_and_end, undone_after_error
from .layers import put_in, take_out

_CHECKPOINTING_FLAGS = ("is_activation_checkpointing", "is_gradient_checkpointing")


def attach_linears(
    model: nn.Module, blocks: Mapping[str, LoRABlock], config: ResLoRAConfig
) -> tuple[Callable[[nn.Module], None], list[RemovableHandle]]:
    """Puts a `ResLoRALinear` in the place of every linear that has a block, and the hooks that make the tape.

    Returns:
        what puts the linears back into the model, and the hooks' handles. After an error the model is as it was.
    """
    handles: list[RemovableHandle] = []
    put_in(model, blocks, config)
    restore = functools.partial(take_out, tuple(blocks))
    with undone_after_error(handles, lambda: restore(model)):
        handles.append(model.register_forward_pre_hook(_begin))
        handles.append(model.register_forward_hook(leave_and_end, always_call=True))
    return restore, handles


def gradient_checkpointing_kwargs() -> dict[str, Any]:
    """What `model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=...)` needs with ResLoRA in the model."""
    return {"use_reentrant": False, "context_fn": checkpoint_contexts}


def _begin(module: nn.Module, args: tuple[Any, ...]) -> None:
    # transformers' new and old name; to ask for the old one warns where there is the new one
    flag = next((name for name in _CHECKPOINTING_FLAGS if hasattr(type(module), name)), None)
    recomputes = flag is not None and bool(getattr(module, flag)) and module.training
    if recomputes:
        _check_checkpointing(module)
    enter_tape(new_tape(keep=recomputes, model=module))


def _check_checkpointing(model: nn.Module) -> None:
    """Recomputation without its tape would stop in the middle of a backward pass, where nobody can tell why."""
    for name, module in model.named_modules():
        run = getattr(module, "_gradient_checkpointing_func", None)
        if run is None or not getattr(module, "gradient_checkpointing", False):
            continue
        if getattr(run, "keywords", {}).get("context_fn") is not checkpoint_contexts:
            raise RuntimeError(
                f"Gradient checkpointing of {name or type(model).__name__} is on without ResLoRA's context, so that a "
                "recomputed layer would miss its paths. Turn it on with model.gradient_checkpointing_enable("
                "gradient_checkpointing_kwargs=reslora_sd.adapter.text.gradient_checkpointing_kwargs())."
            )
