"""The linear that puts a ResLoRA branch beside a frozen projection of a text model, and how its tape gets there.

A text model hands nothing down to its projections but their input, so that the tape of a forward pass lies in a context
variable: set when the model's forward begins, reset when it ends, and brought back by `checkpoint_contexts` where
gradient checkpointing runs a layer again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..blocks.block import LoRABlock
from ..blocks.branch import add_branches
from ..blocks.tape import checkpoint_contexts, current_tape, end_tape, enter_tape, leave_tape, new_tape
from ..config import ResLoRAConfig

_CHECKPOINTING_FLAGS = ("is_activation_checkpointing", "is_gradient_checkpointing")


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


def attach_linears(
    model: nn.Module, blocks: Mapping[str, LoRABlock], config: ResLoRAConfig
) -> tuple[Callable[[nn.Module], None], list[RemovableHandle]]:
    """Puts a `ResLoRALinear` in the place of every linear that has a block, and the hooks that make the tape.

    Returns:
        what puts the linears back into the model, and the hooks' handles. After an error the model is as it was.
    """
    handles: list[RemovableHandle] = []
    put: list[str] = []
    try:
        for name, block in blocks.items():
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            model.set_submodule(name, ResLoRALinear(linear, block, config))
            put.append(name)
        handles.append(model.register_forward_pre_hook(_begin))
        handles.append(model.register_forward_hook(_end, always_call=True))
    except BaseException:
        for handle in handles:
            handle.remove()
        _restore_linears(tuple(put), model)
        raise
    return functools.partial(_restore_linears, tuple(blocks)), handles


def gradient_checkpointing_kwargs() -> dict[str, Any]:
    """What `model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=...)` needs with ResLoRA in the model."""
    return {"use_reentrant": False, "context_fn": checkpoint_contexts}


def _restore_linears(names: tuple[str, ...], model: nn.Module) -> None:
    for name in names:
        ours = model.get_submodule(name)
        assert isinstance(ours, ResLoRALinear)
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.in_features, linear.out_features = ours.in_features, ours.out_features
        linear.weight, linear.bias = ours.weight, ours.bias
        model.set_submodule(name, linear.train(ours.training))


def _begin(module: nn.Module, args: tuple[Any, ...]) -> None:
    # transformers' new and old name; to ask for the old one warns where there is the new one
    flag = next((name for name in _CHECKPOINTING_FLAGS if hasattr(type(module), name)), None)
    recomputes = flag is not None and bool(getattr(module, flag)) and module.training
    if recomputes:
        _check_checkpointing(module)
    enter_tape(new_tape(keep=recomputes))


def _end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    tape = current_tape()
    if tape is not None:  # the pre-hook itself may have failed
        leave_tape(tape)
        end_tape(tape)


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
