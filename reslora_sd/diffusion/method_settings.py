"""The settings of the adapter and of its merge, for the picture script. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..config import ResLoRAConfig
from ..plan.targets import expand_targets
from ..runs.names import APPROACHES, METHODS, default_approach
from ..training.method import MethodSettings, OurMethod
from ..training.options import check_at_least, option

Approach = Literal["exact", "input", "least_squares", "none", "weights"]


@dataclass(frozen=True)
class UnetMethod(MethodSettings):
    """LoRA or ResLoRA, and how it is merged."""

    _argument_group_name: ClassVar[str] = "method (ours)"

    method: OurMethod = option("reslora_is", "LoRA, ResLoRA by Eq. 2, 3 or 4, or Eq. 2 with frozen paths.")
    rank: int = option(16, "Rank of every block (diffusers: 4).")
    lora_alpha: float = option(32.0, "Branches are scaled by lora_alpha / rank.")
    link: Literal["neighbour", "same_size"] = option("neighbour", "Which earlier block a path comes from.")
    across_attention: bool = option(False, "One chain through self- and cross-attention in turn.")
    target_modules: list[str] = option(
        ["to_q", "to_k", "to_v", "to_out.0"],
        "Ends of module paths, or sets: attention, ff, kohya (all in transformers).",
    )
    train_text_encoder: bool = option(False, "Train q, k, v and o of the text encoders too, by the same method.")
    merge_approach: Approach | None = option(
        None, "How paths are merged away (left out: least_squares for reslora_is and reslora_ms, else exact)."
    )
    path_samples: int | None = option(
        None,
        "reslora_frozen: noisy pictures that its paths are measured on, before training (left out: by their tokens).",
    )
    calibration_samples: int | None = option(None, "Noisy pictures for statistics (left out: a 16th of those trained).")
    merge_rank: int | None = option(None, "reslora_bs: cut the exact merge to this rank by SVD.")
    init_lora: str | None = option(None, "Start from this LoRA: a file, or a folder that one was saved in.")
    init_lora_partial: bool = option(False, "Leave out what --init_lora has and the adapter has no block for.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ["merge_rank"])
        residual = METHODS[self.method]
        if self.merge_approach is None:
            object.__setattr__(self, "merge_approach", default_approach(residual))
        if self.merge_approach not in APPROACHES[residual]:
            raise ValueError(
                f"--merge_approach {self.merge_approach} doesn't fit --method {self.method}. "
                f"Choose one of {', '.join(APPROACHES[residual])}."
            )
        if self.merge_rank is not None and (residual, self.merge_approach) != ("block", "exact"):
            raise ValueError("--merge_rank cuts the exact merge of reslora_bs only. Leave it out here.")
        if self.init_lora_partial and self.init_lora is None:
            raise ValueError("--init_lora_partial is given without --init_lora. Name the LoRA to start from.")
        self.adapter()

    @property
    def approach(self) -> str:
        """The merge approach, given or by default."""
        assert self.merge_approach is not None
        return self.merge_approach

    def adapter(self) -> ResLoRAConfig:
        """The adapter's settings."""
        return self.lora_config(
            expand_targets(self.target_modules), link=self.link, across_attention=self.across_attention
        )
