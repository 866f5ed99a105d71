"""Compares methods on a text task, each at its own best learning rate, over several seeds.

    python train_scripts/compare_text_methods.py --task svamp --train_file train.jsonl --test_file test.jsonl

First every method is trained at every rate with the first seed; the loss of training rows that are kept apart
(--validation_samples) chooses its rate. At that rate it is then trained with all seeds, and evaluated on the test
rows. compare.json, compare.md (a table) and compare.png (the sweep) are written. Flags that this script doesn't know,
of the command line or of --config FILE, go to the training script. Runs that are done are not run again: after a stop,
the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from reslora_sd.runs.names import METHODS, RESULTS_FILE, checkpoint_name
from reslora_sd.runs.sweep import DIVERGED_FILE, Training, claim_folder, has_result, read_result
from reslora_sd.text.apart import rows_apart
from reslora_sd.text.glue import GLUE_TASKS
from reslora_sd.text.settings import ClassificationData, GenerationData
from reslora_sd.text.tasks import GENERATION_TASKS
from reslora_sd.training.command import run_command
from reslora_sd.training.comparison import ComparisonSettings, Protocol, check_passed_on, compare
from reslora_sd.training.method import AnyMethod
from reslora_sd.training.options import check_at_least, option
from reslora_sd.training.parser import SettingsParser

KEYS = "method learning_rate validation_loss seconds_per_step peak_memory_mb trainable_parameters results".split()
"""What is read of a run's results.json."""


@dataclass(frozen=True)
class TextComparison(ComparisonSettings):
    """A sweep over trainings on a text task."""

    task: str = option("svamp", f"One of {', '.join([*GENERATION_TASKS, *GLUE_TASKS])}.")
    output_dir: str = option("", "The runs come into folders of it (left out: runs/compare-TASK).")
    methods: list[AnyMethod] = option(list(METHODS), "Methods to compare.")
    learning_rates: list[float] = option([1e-3, 2e-3, 5e-3, 1e-2], "Rates that every method is tried at.")
    max_steps: int = option(100, "Optimizer steps of a run.")
    validation_samples: int = option(100, "Training rows kept apart, whose loss chooses a method's rate.")
    evaluate: Literal["all", "loss"] = option(
        "all", "What is measured on the test rows, at the best rates: all, or without generated answers."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ("max_steps", "validation_samples"))
        if self.task not in {**GENERATION_TASKS, **GLUE_TASKS}:
            choices = ", ".join([*GENERATION_TASKS, *GLUE_TASKS])
            raise ValueError(f"--task is {self.task!r}. It must be one of {choices}.")

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.output_dir or f"runs/compare-{self.task}")


def protocol_of(settings: TextComparison, more: Sequence[str]) -> Protocol:
    """How a run of the task is launched and read, and on which rows it is measured.

    Raises:
        FileNotFoundError, ValueError: rows are missing or broken, or the test rows are those that would choose.
    """
    kind = GenerationData if settings.task in GENERATION_TASKS else ClassificationData
    own = ["--task", settings.task, "--validation_samples", str(settings.validation_samples)]
    (data,), _ = SettingsParser([kind], "").parse_known([*own, *more])
    test_files = (data.test_file, getattr(data, "test_file_mismatched", None))
    rows = rows_apart(
        data.task,
        data.train_file,
        test_files,
        data.validation_samples,
        settings.chosen_with,
        data.max_train_samples,
        data.max_eval_samples,
    )
    where = " and ".join(file for file in test_files if file) or "the Hub"
    shared = f"{rows.shared} of the {rows.tests} test rows have the text of a row that chose." if rows.shared else None
    return Protocol(
        title=f"{settings.task}, {settings.max_steps} steps",
        chosen_by=f"{rows.kept} rows kept apart from {data.train_file or 'the training rows of the Hub'}",
        reported_on=f"{rows.tests} test rows of {where}",
        training=partial(training, settings, more),
        read=lambda folder: read_result(folder / RESULTS_FILE, KEYS),
        notes=(shared,) if shared else (),
    )


def training(
    settings: TextComparison, more: Sequence[str], method: str, rate: float, seed: int, reported: bool
) -> Training:
    """One run; one that was trained already goes on at its end, so that only the evaluation is missing."""
    name = "train_nlg_reslora.py" if settings.task in GENERATION_TASKS else "train_nlu_reslora.py"
    folder = settings.run_folder(method, rate, seed)
    trained = has_result(folder / RESULTS_FILE, KEYS) or (folder / checkpoint_name(settings.max_steps)).is_dir()
    flags = [
        "--task",
        settings.task,
        "--max_steps",
        str(settings.max_steps),
        "--validation_samples",
        str(settings.validation_samples),
        "--evaluate",
        settings.evaluate if reported else "none",
        *(["--resume_from_checkpoint", "latest"] if trained else ["--overwrite_output_dir"]),
        *more,
    ]
    done = partial(is_done, evaluated=reported)
    return settings.training(Path(__file__).with_name(name), method, rate, seed, flags, done)


def is_done(folder: Path, evaluated: bool) -> bool:
    """Whether the run is there, with the test rows if these are asked for."""
    path = folder / RESULTS_FILE
    return has_result(path, KEYS) and (not evaluated or bool(read_result(path, KEYS)["results"]))


def parse(argv: Sequence[str] | None = None) -> tuple[TextComparison, list[str]]:
    """The sweep's settings, and the words that are for the training script.

    Raises:
        ValueError: a value is invalid, or the config file can't be read.
    """
    (settings,), more = SettingsParser([TextComparison], (__doc__ or "").split("\n")[0]).parse_known(argv)
    check_passed_on(more, {"num_train_epochs": "Give --max_steps."})
    return settings, more


def main(settings: TextComparison, more: Sequence[str]) -> None:
    """The sweep over rates, the runs at the best ones, and what they say.

    Args:
        more: flags of the training script.
    """
    protocol = protocol_of(settings, more)
    common = {key: getattr(settings, key) for key in ("task", "max_steps", "validation_samples")}
    if settings.evaluate != "all":  # sweeps that an earlier version began don't say it
        common["evaluate"] = settings.evaluate
    claim_folder(settings.folder, {**common, "flags": list(more)}, RESULTS_FILE, "checkpoint-*", DIVERGED_FILE)
    print(compare(settings, protocol))


def cli() -> None:
    """The command reslora-compare-text."""
    run_command(lambda: main(*parse()))


if __name__ == "__main__":
    cli()
