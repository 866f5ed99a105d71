"""AdamW on the adapter, and the schedule of its rate."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import get_scheduler

from .adapters import Adapters
from .optimizer_settings import OptimizerSettings


def make_optimizer(settings: OptimizerSettings, adapters: Adapters, pictures_a_step: int) -> torch.optim.Optimizer:
    """AdamW on the adapters' parameters, which are float32 in every precision; text encoders have a rate of their own.

    Args:
        pictures_a_step: of all processes and accumulated batches; `--scale_lr` multiplies the rate by it.
    """
    optimizer_class = torch.optim.AdamW
    if settings.use_8bit_adam:
        try:
            import bitsandbytes
        except ImportError:
            raise ImportError("--use_8bit_adam needs bitsandbytes. Run: pip install bitsandbytes") from None
        optimizer_class = bitsandbytes.optim.AdamW8bit
    factor = pictures_a_step if settings.scale_lr else 1
    groups: list[dict[str, Any]] = [{"params": list(adapters.unet.parameters())}]
    if adapters.text:
        rate = settings.text_encoder_lr or settings.learning_rate
        groups.append({"params": adapters.text_parameters(), "lr": rate * factor})
    return optimizer_class(
        groups,
        lr=settings.learning_rate * factor,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        eps=settings.adam_epsilon,
    )


def make_schedule(settings: OptimizerSettings, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """diffusers' schedule of the rate over so many optimizer steps.

    Raises:
        ValueError: the warm-up fits neither the schedule nor the length.
    """
    settings.check_warmup(steps)
    return get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=steps,
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
