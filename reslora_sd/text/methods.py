"""One switch for all methods: ours put blocks in, PEFT's wrap the model, `full` trains everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..adapter.adapter import ResLoRAAdapter, add_reslora
from ..merging.plain_lora import PlainLoRA
from ..plan.links import matches
from ..plan.text import check_own_weights
from .evaluate import variants
from .models import target_modules_for
from .settings import TextMethod
from .trainer import head_parameters


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
    path_samples: int | None = None
    """Of `--path_samples`."""
    paths: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says of the frozen paths."""
    before: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What trains whole (a new head; everything with `full`), as it was before the training."""

    @property
    def trainable(self) -> int:
        """How many numbers train."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def contexts(self, plains: Mapping[str, PlainLoRA]) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """Contexts in which the model is the base model, the trained one, and merged ones.

        The base model is the same for every method: the one before training, with its new head untrained.
        """
        if self.adapter is not None:
            return {**variants(self.adapter, plains), "base": self._untrained}
        return {"base": self._untrained, "unmerged": nullcontext}

    @contextmanager
    def _untrained(self) -> Iterator[None]:
        adapter = (
            self.adapter.disabled if self.adapter is not None else getattr(self.model, "disable_adapter", nullcontext)
        )
        parameters = dict(self.model.named_parameters())
        trained = {name: parameters[name].detach().cpu().clone() for name in self.before}
        with adapter():
            try:
                _take(parameters, self.before)
                yield
            finally:
                _take(parameters, trained)


def attach(
    model: Any,
    settings: TextMethod,
    total_steps: int,
    seed: int,
    head: Sequence[str] = (),
    keep_base: bool = True,
) -> Attached:
    """Puts the method into a loaded model.

    LoRA and ResLoRA start from the same A for equal seed, rank and targets.

    Args:
        total_steps: of the training; AdaLoRA plans by it.
        head: children of the model that train whole, such as a new classifier.
        keep_base: whether to remember what trains whole as it is, so that the base model can be measured later.

    Raises:
        ValueError: as `add_reslora` and `target_modules_for`; a target's weight is another module's, too.
    """
    if settings.method == "full":
        model.requires_grad_(True).float()
        return Attached(model, "full", before=_copies(model.named_parameters()) if keep_base else {})
    targets = tuple(settings.target_modules or target_modules_for(model))
    torch.manual_seed(seed)
    for name in head:
        model.get_submodule(name).register_forward_pre_hook(_in_own_precision)
    if not settings.is_ours:
        from .baselines import add_peft_baseline

        check_own_weights(model, {name: one for name, one in model.named_modules() if matches(name, targets)})
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
    before = _copies(head_parameters(model).items()) if keep_base else {}
    return Attached(model, settings.method, adapter, targets=targets, path_samples=settings.path_samples, before=before)


def _copies(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters}


@torch.no_grad()
def _take(parameters: Mapping[str, nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)


def _in_own_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A new head trains in float32, and the frozen model before it may be in half precision."""
    dtype = next(module.parameters()).dtype
    return tuple(one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in inputs)
