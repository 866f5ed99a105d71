"""The settings that both text scripts share; HfArgumentParser makes flags of them, beside TrainingArguments' own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..config import ResLoRAConfig
from ..runs.names import BASELINES, METHODS


@dataclass
class MethodArguments:
    """Model and method.

    Raises:
        ValueError: a value can't be meant.
    """

    method: str = field(
        default="reslora_is",
        metadata={"help": f"One of {', '.join([*METHODS, *BASELINES])}.", "choices": [*METHODS, *BASELINES]},
    )
    model: str = field(default="", metadata={"help": "Hub name, folder, or an embedded default (smollm2, minilm)."})
    rank: int = field(default=4, metadata={"help": "Rank of every block (appendix C: 4)."})
    lora_alpha: float = field(
        default=8.0, metadata={"help": "Branches are scaled by lora_alpha / rank (appendix C: 8)."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of a branch."})
    pre_num: int | None = field(
        default=None, metadata={"help": "Predecessors of reslora_bs and reslora_ms; -1 for all (left out: 4)."}
    )
    first_block: str = field(
        default="self",
        metadata={"help": "What reslora_is adds where a chain starts (appendix C: none).", "choices": ["self", "none"]},
    )
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "Ends of module paths (left out: q and v of the model's type)."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of the frozen weights; adapters are float32.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    eval_batch_size: int = field(default=32, metadata={"help": "Examples at once in evaluation."})
    max_train_samples: int | None = field(default=None, metadata={"help": "So many training rows at random (--seed)."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "The first so many test rows."})
    validation_samples: int = field(
        default=0,
        metadata={
            "help": "Training rows kept apart, the same for every seed: their loss chooses settings such as the "
            "learning rate, and the test rows don't."
        },
    )
    evaluate: str = field(
        default="all",
        metadata={
            "help": "all: the task's metric and losses of every variant; loss: without generated answers; none: only "
            "the loss of the rows that --validation_samples kept apart.",
            "choices": ["all", "loss", "none"],
        },
    )
    calibration_samples: int | None = field(
        default=None,
        metadata={
            "help": "Training rows that merging takes its statistics from; left out: 256, or more where rows are short."
        },
    )
    save_fused: bool = field(
        default=False, metadata={"help": "Also write the whole model with the merged LoRA in its weights."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace a run that is there."})

    def __post_init__(self) -> None:
        if self.method not in (*METHODS, *BASELINES):
            raise ValueError(f"--method is {self.method!r}. It must be one of {', '.join([*METHODS, *BASELINES])}.")
        for name in ("eval_batch_size", "max_train_samples", "max_eval_samples", "calibration_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}. It must be 1 or more.")
        if self.validation_samples < 0:
            raise ValueError(f"--validation_samples is {self.validation_samples}. It must be 0 or more.")

    @property
    def is_ours(self) -> bool:
        """Whether `add_reslora` makes the adapter (LoRA too), not PEFT."""
        return self.method in METHODS

    def lora_config(self, target_modules: Sequence[str]) -> ResLoRAConfig:
        """The adapter's settings, for our methods."""
        return ResLoRAConfig(
            residual=METHODS[self.method],
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=tuple(target_modules),
            pre_num=self.pre_num,
            first_block=self.first_block,
        )


Arguments = TypeVar("Arguments", bound=MethodArguments)


def parse_arguments(
    kind: type[Arguments], description: str, argv: Sequence[str] | None, **defaults: Any
) -> tuple[Arguments, Any]:
    """Our settings and transformers' TrainingArguments; `--num_train_epochs` alone counts in epochs, not in steps.

    Args:
        defaults: of TrainingArguments, where this script's differ.

    Raises:
        ValueError: a value can't be meant.
    """
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser((kind, TrainingArguments), description=description)
    parser.set_defaults(output_dir="", **{**_TRAINING_DEFAULTS, **defaults})
    words = list(sys.argv[1:] if argv is None else argv)
    flags = {word.partition("=")[0] for word in words}
    if "--num_train_epochs" in flags and "--max_steps" not in flags:
        words += ["--max_steps", "-1"]
    args, training = parser.parse_args_into_dataclasses(words)
    return args, training


_TRAINING_DEFAULTS = {
    "max_steps": 100,
    "per_device_train_batch_size": 8,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_steps": 500,
    "report_to": "none",
    "disable_tqdm": True,
    "remove_unused_columns": False,
}
"""A real run on two cores, with a log line a step."""
