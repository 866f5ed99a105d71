"""The settings of AdamW and of its rate's schedule, under diffusers' names. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..training.options import check_above_zero, check_at_least, check_choices, check_finite, option

Schedule = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and the schedule of its rate."""

    _argument_group_name: ClassVar[str] = "optimizer and schedule"

    learning_rate: float = option(1e-4, "Rate of AdamW (embedded model: 5e-4; a style: 2e-3).")
    text_encoder_lr: float | None = option(None, "Rate of the text encoders (left out: learning_rate).")
    scale_lr: bool = option(False, "Times processes, accumulation and batch size.")
    lr_scheduler: Schedule = option("constant", "How the rate changes over the steps.")
    lr_warmup_steps: int = option(0, "Optimizer steps (diffusers: 500, unused by 'constant').")
    lr_num_cycles: int = option(1, "Cosines of cosine_with_restarts, one after the other.")
    lr_power: float = option(1.0, "Power of polynomial; 1 is linear.")
    use_8bit_adam: bool = option(False, "bitsandbytes' AdamW8bit.")
    adam_beta1: float = option(0.9, "Decay of AdamW's first moment.")
    adam_beta2: float = option(0.999, "Decay of AdamW's second moment.")
    adam_weight_decay: float = option(1e-2, "AdamW's weight decay.")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; inf for not at all.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_above_zero(self, ["learning_rate", "text_encoder_lr", "adam_epsilon", "max_grad_norm", "lr_power"])
        check_at_least(self, 0, ["lr_warmup_steps", "adam_weight_decay"])
        check_at_least(self, 1, ["lr_num_cycles"])
        check_finite(self, but=["max_grad_norm"])
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}. It must be at least 0 and below 1.")
        for name, schedule in (("lr_num_cycles", "cosine_with_restarts"), ("lr_power", "polynomial")):
            if getattr(self, name) != 1 and self.lr_scheduler != schedule:
                raise ValueError(
                    f"--{name} is {getattr(self, name)} and --lr_scheduler {self.lr_scheduler}, which doesn't use it. "
                    f"Leave it out, or choose --lr_scheduler {schedule}."
                )

    def check_warmup(self, steps: int) -> None:
        """Whether the schedule has a warm-up, and a run of so many steps reaches its end.

        Raises:
            ValueError: one of both isn't so.
        """
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                f"--lr_warmup_steps is {self.lr_warmup_steps} and --lr_scheduler constant, which has no warm-up. Leave "
                "it out, or choose --lr_scheduler constant_with_warmup."
            )
        if self.lr_warmup_steps > steps:
            raise ValueError(
                f"--lr_warmup_steps is {self.lr_warmup_steps}, and the run has {steps} steps: the rate would never be "
                "reached. Choose a shorter warm-up or a longer run."
            )
