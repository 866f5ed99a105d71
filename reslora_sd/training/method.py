"""The method settings that all scripts share: which adapter, how large, and what its merge is measured on. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..config import ResLoRAConfig
from ..runs.names import METHODS
from .options import check_above_zero, check_at_least, check_choices, check_finite, option

OurMethod = Literal["lora", "reslora_is", "reslora_bs", "reslora_ms", "reslora_frozen"]
"""The keys of `METHODS`, as a type."""
AnyMethod = Literal[OurMethod, "adalora", "loha", "lokr", "full"]
"""With `BASELINES`."""


@dataclass(frozen=True)
class MethodSettings:
    """Method and adapter. Scripts subclass it for other defaults and choices.

    Raises:
        ValueError: a value is out of range, or doesn't fit the method.
    """

    _argument_group_name: ClassVar[str] = "method"

    method: str = option("reslora_is", "LoRA, ResLoRA by Eq. 2, 3 or 4, or Eq. 2 with frozen paths.")
    rank: int = option(16, "Rank of every block.")
    lora_alpha: float = option(32.0, "Branches are scaled by lora_alpha / rank.")
    lora_dropout: float = option(0.0, "Dropout on the input of a branch.")
    pre_num: int | None = option(None, "Predecessors of reslora_bs and reslora_ms; -1 for all (left out: 4).")
    first_block: Literal["self", "none"] = option(
        "self", "What reslora_is and reslora_frozen add where a chain starts."
    )
    target_modules: list[str] | None = option(None, "Ends of module paths.")
    calibration_samples: int | None = option(None, "Training examples that merging takes its statistics from.")
    path_samples: int | None = option(
        None, "reslora_frozen: training examples that its paths are measured on, before training."
    )
    alpha_from: Literal["weights", "inputs"] = option(
        "weights",
        "What reslora_ms takes Eq. 13's factors from: norms of merged weights, or of inputs (published code).",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, ("rank", "calibration_samples", "path_samples"))
        check_above_zero(self, ("lora_alpha",))
        check_finite(self)
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"--lora_dropout is {self.lora_dropout}. It must be at least 0 and below 1.")
        if self.path_samples is not None and self.method != "reslora_frozen":
            raise ValueError(f"--path_samples is for reslora_frozen, and --method is {self.method}. Leave it out.")
        if self.alpha_from == "inputs" and self.method != "reslora_ms":
            raise ValueError(
                f"--alpha_from inputs is for reslora_ms (Eq. 13), and --method is {self.method}. Leave it out."
            )
        if self.is_ours:
            # what is left out depends on the model, and is checked when that is loaded
            self.lora_config(["any"] if self.target_modules is None else self.target_modules)

    @property
    def is_ours(self) -> bool:
        """Whether `add_reslora` makes the adapter (LoRA too)."""
        return self.method in METHODS

    def lora_config(self, target_modules: Sequence[str] | None = None, **more: Any) -> ResLoRAConfig:
        """The adapter's settings, for our methods.

        Args:
            target_modules: instead of the field.
            more: fields of `ResLoRAConfig` that only some scripts have.

        Raises:
            ValueError: as `ResLoRAConfig`.
        """
        return ResLoRAConfig(
            residual=METHODS[self.method],
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=tuple(target_modules if target_modules is not None else self.target_modules or ()),
            pre_num=self.pre_num,
            first_block=self.first_block,
            **more,
        )
