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
from typing import Any

from reslora_sd.runs.atomic import write_json
from reslora_sd.runs.names import METHODS, RESULTS_FILE, checkpoint_name
from reslora_sd.runs.sweep import Training, claim_folder, has_result, read_result, run_all
from reslora_sd.text.compare import best_rates, plot, summary
from reslora_sd.text.glue import GLUE_TASKS
from reslora_sd.text.tasks import GENERATION_TASKS
from reslora_sd.training.command import run_command
from reslora_sd.training.comparison import ComparisonSettings, check_rates
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
    rates_for: list[list[str]] = option(
        [],
        "A method's own rates instead, as in: --rates_for adalora 2e-3 5e-3",
        action="append",
        metavar=("METHOD", "RATE"),
    )
    max_steps: int = option(100, "Optimizer steps of a run.")
    validation_samples: int = option(100, "Training rows kept apart, whose loss chooses a method's rate.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ("max_steps",))
        check_at_least(self, 0, ("validation_samples",))
        if self.task not in {**GENERATION_TASKS, **GLUE_TASKS}:
            choices = ", ".join([*GENERATION_TASKS, *GLUE_TASKS])
            raise ValueError(f"--task is {self.task!r}. It must be one of {choices}.")
        for rates in self.rates.values():
            check_rates("rates_for", rates)

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.output_dir or f"runs/compare-{self.task}")

    @property
    def rates(self) -> dict[str, list[float]]:
        """Each method's rates.

        Raises:
            ValueError: --rates_for doesn't start with one of the methods, or goes on without numbers.
        """
        rates: dict[str, list[float]] = dict.fromkeys(self.methods, self.learning_rates)
        for method, *own in self.rates_for:
            try:
                numbers = [float(rate) for rate in own]
            except ValueError:
                numbers = []
            if method not in rates or not numbers:
                wanted = f"one of {', '.join(rates)}, and then numbers"
                raise ValueError(f"--rates_for {' '.join([method, *own])}: give {wanted}.")
            rates[method] = numbers
        return rates


def training(
    settings: TextComparison, method: str, rate: float, seed: int, evaluate: str, more: Sequence[str]
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
        evaluate,
        *(["--resume_from_checkpoint", "latest"] if trained else ["--overwrite_output_dir"]),
        *more,
    ]
    done = partial(is_done, evaluated=evaluate == "all")
    return settings.training(Path(__file__).with_name(name), method, rate, seed, flags, done)


def is_done(folder: Path, evaluated: bool) -> bool:
    """Whether the run is there, with the test rows if these are asked for."""
    path = folder / RESULTS_FILE
    return has_result(path, KEYS) and (not evaluated or bool(read_result(path, KEYS)["results"]))


def results_of(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """What the runs' results.json say."""
    return [read_result(one.folder / RESULTS_FILE, KEYS) for one in trainings]


def parse(argv: Sequence[str] | None = None) -> tuple[TextComparison, list[str]]:
    """The sweep's settings, and the words that are for the training script.

    Raises:
        ValueError: a value is invalid, or the config file can't be read.
    """
    (settings,), more = SettingsParser([TextComparison], (__doc__ or "").split("\n")[0]).parse_known(argv)
    return settings, more


def main(settings: TextComparison, more: Sequence[str]) -> None:
    """The sweep over rates, the runs at the best ones, and what they say.

    Args:
        more: flags of the training script.
    """
    methods, folder, tried = settings.methods, settings.folder, settings.rates
    common = {key: getattr(settings, key) for key in ("task", "max_steps", "validation_samples")}
    claim_folder(folder, {**common, "flags": list(more)}, RESULTS_FILE, "checkpoint-*")
    sweep = [
        training(settings, method, rate, settings.seeds[0], "none", more)
        for rate in sorted({rate for rates in tried.values() for rate in rates})
        for method in methods
        if rate in tried[method]
    ]
    run_all(sweep, settings.jobs)
    swept = sorted(results_of(sweep), key=lambda one: methods.index(one["method"]))  # colours of the plot
    rates = best_rates(swept)
    finals = [
        training(settings, method, rates[method], seed, "all", more) for seed in settings.seeds for method in methods
    ]
    run_all(finals, settings.jobs)
    final = results_of(finals)
    write_json(folder / "compare.json", {"task": settings.task, "sweep": swept, "best": final})
    text = summary(swept, final)
    (folder / "compare.md").write_text(text + "\n", encoding="utf-8")
    plot(swept, final, folder / "compare.png", settings.task)
    print(text)


def cli() -> None:
    """The command reslora-compare-text."""
    run_command(lambda: main(*parse()))


if __name__ == "__main__":
    cli()
