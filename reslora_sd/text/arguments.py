"""The command lines of the text scripts, and the way back from run.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from transformers import TrainingArguments

from ..training.parser import SettingsParser
from .settings import (
    ClassificationData,
    Classifier,
    Data,
    EvaluationSettings,
    GenerationData,
    LanguageModel,
    ModelSettings,
    OutputSettings,
    TextMethod,
    TextSettings,
)


@dataclass(frozen=True)
class CommandLine(Generic[Data]):
    """The flags of one text script: our settings, and transformers' TrainingArguments with other defaults."""

    model: type[ModelSettings]
    data: type[Data]
    description: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of TrainingArguments, where they differ from `_DEFAULTS`."""

    def parse(self, argv: Sequence[str] | None = None) -> TextSettings[Data]:
        """Settings of the command line and its `--config`; `--num_train_epochs` alone counts in epochs, not in steps.

        Raises:
            ValueError: a value is invalid, or the config file can't be read or holds what is no flag.
            SystemExit: argparse's own, for flags that aren't there and values of the wrong kind.
        """
        parser = self.parser()
        given = parser.given(argv)
        defaults = self._defaults(given)
        parser.set_defaults(**defaults)
        return _settings(parser.parse(argv), {**defaults, **given})

    def from_values(self, arguments: Mapping[str, Any], source: str = "run.json") -> TextSettings[Data]:
        """The settings that `TextSettings.to_arguments` gave.

        Raises:
            ValueError: there is a name that is no flag, or an invalid value.
        """
        parser = self.parser()
        given = {name: value for name, value in arguments.items() if value is not None}
        defaults = self._defaults(given)
        parser.set_defaults(**defaults)
        return _settings(parser.from_values(given, source), {**defaults, **given})

    def parser(self) -> SettingsParser:
        """All flags, ours in groups; their help texts are the reference."""
        kinds = (TextMethod, self.model, self.data, EvaluationSettings, OutputSettings, TrainingArguments)
        return SettingsParser(kinds, self.description)

    def _defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`--load_best_model_at_end` needs a checkpoint at each evaluation."""
        more: dict[str, Any] = {"max_steps": -1} if "num_train_epochs" in given else {}
        if given.get("load_best_model_at_end"):
            more["save_strategy"] = given.get("eval_strategy", "steps")
            if more["save_strategy"] == "steps":  # transformers evaluates at every log line unless told
                more["save_steps"] = given.get("eval_steps", given.get("logging_steps", _DEFAULTS["logging_steps"]))
        return {**_DEFAULTS, **self.defaults, **more}


_DEFAULTS = {
    "output_dir": "",
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
_ALWAYS = (
    "max_steps num_train_epochs per_device_train_batch_size gradient_accumulation_steps learning_rate "
    "lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay max_grad_norm seed bf16 fp16 data_seed optim "
    "optim_args train_sampling_strategy dataloader_drop_last label_smoothing_factor neftune_noise_alpha"
).split()
"""Of TrainingArguments, in every run.json; others are there where they aren't transformers' defaults."""
_SECRET = ("hub_token",)

GENERATION = CommandLine(
    LanguageModel,
    GenerationData,
    "Fine-tunes a causal LM on a generation task with LoRA, ResLoRA or a baseline, and evaluates before and after "
    "merging.",
)
CLASSIFICATION = CommandLine(
    Classifier,
    ClassificationData,
    "Fine-tunes a sequence classifier on a GLUE task with LoRA, ResLoRA or a baseline, and evaluates it merged, too.",
    {"max_steps": 300, "per_device_train_batch_size": 16},
)


def _settings(groups: Sequence[Any], values: Mapping[str, Any]) -> TextSettings[Any]:
    """The groups in the order of `CommandLine.parser`, and where the run goes if that is left out."""
    method, model, data, evaluation, output, training = groups
    for dtype, flag in (("float16", "bf16"), ("bfloat16", "fp16")):
        if model.dtype == dtype and getattr(training, flag):
            raise ValueError(
                f"--dtype {dtype} and --{flag} are two half precisions, which don't mix. Leave --{flag} out, or load "
                "the weights as float32."
            )
    at_steps = training.load_best_model_at_end and training.eval_strategy == "steps"
    if at_steps and training.save_steps != training.eval_steps:
        raise ValueError(
            "--load_best_model_at_end needs a checkpoint at each evaluation: --save_steps is "
            f"{training.save_steps} and --eval_steps {training.eval_steps}. Leave --save_steps out."
        )
    training.output_dir = training.output_dir or f"runs/{data.task}-{method.method}"
    written = _training_values({**values, "output_dir": training.output_dir})
    return TextSettings(method, model, data, evaluation, output, training, written)


def _training_values(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for one in dataclasses.fields(TrainingArguments):
        value = values.get(one.name, one.default)
        if one.name in _ALWAYS or (one.name in values and value != one.default and one.name not in _SECRET):
            found[one.name] = value
    return found
