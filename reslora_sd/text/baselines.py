"""PEFT's methods that the paper compares with (appendix A): AdaLoRA, LoHa and LoKr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback

ADALORA_EXTRA = 1.5
"""AdaLoRA starts with this many times the rank, and ends with the rank on average (ratio of its paper, 12 to 8)."""


def add_peft_baseline(
    model: Any,
    method: str,
    targets: Sequence[str],
    *,
    r: int,
    lora_alpha: float,
    lora_dropout: float,
    total_steps: int,
    modules_to_save: Sequence[str],
) -> tuple[Any, list[TrainerCallback]]:
    """Wraps a model with PEFT's adapter, trainable parameters in float32.

    Args:
        method: `adalora`, `loha` or `lokr`.
        targets: ends of module paths, as for `ResLoRAConfig.target_modules`.
        lora_dropout: on the input for AdaLoRA; LoHa and LoKr drop rows of their matrices (`rank_dropout`).
        total_steps: of the training. AdaLoRA keeps its ranks for the first tenth, and for the last third.
        modules_to_save: modules that train whole, such as a new classifier.

    Returns:
        PEFT's model, and callbacks without which the method doesn't work.
    """
    import peft

    common: dict[str, Any] = {"target_modules": list(targets), "modules_to_save": list(modules_to_save) or None}
    if method == "adalora":
        config = peft.AdaLoraConfig(
            **common,
            init_r=round(ADALORA_EXTRA * r),
            target_r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            tinit=total_steps // 10,
            tfinal=total_steps // 3,
            deltaT=max(1, total_steps // 100),
            total_step=total_steps,
        )
    elif method == "loha":
        config = peft.LoHaConfig(**common, r=r, alpha=lora_alpha, rank_dropout=lora_dropout)
    else:
        assert method == "lokr"
        config = peft.LoKrConfig(**common, r=r, alpha=lora_alpha, rank_dropout=lora_dropout)
    wrapped = peft.get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped, [AllocateRanks(wrapped)] if method == "adalora" else []


class AllocateRanks(TrainerCallback):  # type: ignore[misc]
    """Has AdaLoRA take ranks away after each step; without it, AdaLoRA trains as LoRA (peft#3373).

    Raises:
        RuntimeError: at the end of the training, if no rank has changed.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the optimizer's step and before gradients are cleared, as PEFT asks."""
        self.model.base_model.update_and_allocate(state.global_step + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = ranks(self.model)
        if found and min(found.values()) == max(found.values()) == self.model.peft_config["default"].init_r:
            raise RuntimeError(
                f"AdaLoRA changed no rank in {state.global_step} steps: all {len(found)} are {min(found.values())}. "
                "Train for 10 steps or more."
            )


def ranks(model: Any) -> dict[str, int]:
    """The rank of each of AdaLoRA's modules: how many singular values are not zero."""
    return {
        name.removesuffix(".lora_E.default"): int(torch.count_nonzero(parameter))
        for name, parameter in model.named_parameters()
        if name.endswith(".lora_E.default")
    }
