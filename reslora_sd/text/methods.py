"""One switch for all methods: ours put blocks in, PEFT's wrap the model, `full` trains everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..adapter.adapter import ResLoRAAdapter, add_reslora
from ..merging.plain_lora import PlainLoRA
from .evaluate import variants
from .models import target_modules_for
from .settings import TextMethod


@dataclass
class Attached:
    """A model with the method in it."""

    model: Any
    """What is trained: the model itself, or PEFT's around it."""
    method: str
    adapter: ResLoRAAdapter | None = None
    """Of our methods."""
    callbacks: list[Any] = field(default_factory=list)
    """What the method needs to be called during training (AdaLoRA)."""
    targets: tuple[str, ...] = ()

    @property
    def trainable(self) -> int:
        """How many numbers train."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def contexts(self, plains: Mapping[str, PlainLoRA]) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """Contexts in which the model is the base model (where that is possible), the trained one, and merged ones."""
        if self.adapter is not None:
            return variants(self.adapter, plains)
        if self.method == "full":
            return {"unmerged": nullcontext}
        return {"base": self.model.disable_adapter, "unmerged": nullcontext}


def attach(model: Any, settings: TextMethod, total_steps: int, seed: int, head: Sequence[str] = ()) -> Attached:
    """Puts the method into a loaded model.

    LoRA and ResLoRA start from the same A for equal seed, rank and targets.

    Args:
        total_steps: of the training; AdaLoRA plans by it.
        head: children of the model that train whole, such as a new classifier.

    Raises:
        ValueError: as `add_reslora` and `target_modules_for`.
    """
    if settings.method == "full":
        return Attached(model.requires_grad_(True).float(), "full")
    targets = tuple(settings.target_modules or target_modules_for(model))
    torch.manual_seed(seed)
    for name in head:
        model.get_submodule(name).register_forward_pre_hook(_in_own_precision)
    if not settings.is_ours:
        from .baselines import add_peft_baseline

        wrapped, callbacks = add_peft_baseline(
            model,
            settings.method,
            targets,
            r=settings.rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            total_steps=total_steps,
            modules_to_save=list(head),
        )
        return Attached(wrapped, settings.method, callbacks=callbacks, targets=targets)
    adapter = add_reslora(model, settings.lora_config(targets))
    for name in head:
        model.get_submodule(name).requires_grad_(True).float()
    return Attached(model, settings.method, adapter, targets=targets)


def _in_own_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A new head trains in float32, and the frozen model before it may be in half precision."""
    dtype = next(module.parameters()).dtype
    return tuple(one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in inputs)
