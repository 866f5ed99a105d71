"""The protocol of comparisons: each method at its own best learning rate. No torch.

Every method is trained at each of its rates. The loss of what was kept out to choose by gives each method its rate, and
at that rate it is trained with all seeds. What is reported was measured on rows or pictures that chose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from ..runs.atomic import write_json
from ..runs.jsonl import is_number
from ..runs.sweep import DIVERGED_FILE, Training, run_all
from .comparison_report import Choice, Result, in_words, plot, summary
from .options import check_at_least, check_choices, option


@dataclass(frozen=True)
class ComparisonSettings:
    """A sweep. Scripts subclass it for their methods and rates.

    Raises:
        ValueError: a value is out of range, or there is nothing to compare.
    """

    _argument_group_name: ClassVar[str] = "comparison"

    output_dir: str = option("runs/compare", "The runs come into folders of it, and so does what they say together.")
    methods: Sequence[str] = option([], "Methods to compare.")
    learning_rates: list[float] = option([], "Rates that every method is tried at.")
    seeds: list[int] = option([42, 43, 44], "Seeds of the runs at each method's best rate.")
    jobs: int = option(1, "Trainings at once; mind OMP_NUM_THREADS.")
    rates_for: list[list[str]] = option(
        [],
        "A method's own rates instead, as in: --rates_for adalora 2e-3 5e-3",
        action="append",
        metavar=("METHOD", "RATE"),
    )
    choosing_seeds: list[int] = option([], "Seeds of the runs that choose the rates (left out: the first of --seeds).")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, ("jobs",))
        for name in ("methods", "learning_rates", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is empty. Give one or more.")
        for name in ("methods", "seeds", "choosing_seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"--{name} has a value twice: {' '.join(map(str, values))}. Give each once.")
        check_rates("learning_rates", self.learning_rates)
        for rates in self.rates.values():
            check_rates("rates_for", rates)

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.output_dir)

    @property
    def chosen_with(self) -> list[int]:
        """Seeds of the runs that choose the rates."""
        return self.choosing_seeds or self.seeds[:1]

    @property
    def rates(self) -> dict[str, list[float]]:
        """Each method's rates, sorted, each of them once.

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
        return {method: sorted(set(numbers)) for method, numbers in rates.items()}

    def run_folder(self, method: str, rate: float, seed: int) -> Path:
        """Where one run is: no two rates share a folder."""
        short = f"{rate:g}"
        return self.folder / f"{method}-lr{short if float(short) == rate else rate}-seed{seed}"

    def training(
        self,
        script: Path,
        method: str,
        rate: float,
        seed: int,
        flags: Sequence[str],
        is_done: Callable[[Path], bool],
    ) -> Training:
        """One run as a command.

        Args:
            flags: after those of method, rate and seed.
            is_done: whether a folder holds all that the command would make.
        """
        own = ["--method", method, "--learning_rate", str(rate), "--seed", str(seed)]
        return Training(self.run_folder(method, rate, seed), script, [*own, *flags], is_done)


def check_rates(name: str, rates: Iterable[float]) -> None:
    """Learning rates must be above 0 and finite.

    Raises:
        ValueError: one isn't.
    """
    for rate in rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"--{name} has {rate:g}. It must be above 0 and finite.")


_OWN = {
    "method": "Give --methods.",
    "learning_rate": "Give --learning_rates.",
    "seed": "Give --seeds.",
    "overwrite_output_dir": "Give another --output_dir for another comparison.",
    "resume_from_checkpoint": "Start the same command again: it goes on.",
}


def check_passed_on(words: Iterable[str], own: Mapping[str, str]) -> None:
    """Flags for the training script must not be those that the comparison sets for each run.

    Args:
        own: names of more such flags, and what to do instead.

    Raises:
        ValueError: one is.
    """
    instead = {**_OWN, **own}
    for word in words:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in instead:
            raise ValueError(f"--{name} is set by the comparison for each of its runs. {instead[name]}")


@dataclass(frozen=True)
class Protocol:
    """What differs between scripts: how a run is launched and read, and what it is measured on."""

    title: str
    chosen_by: str
    """In words: whose loss chooses the rates."""
    reported_on: str
    """In words: what the figures are of."""
    training: Callable[[str, float, int, bool], Training]
    """The command of a method, rate and seed; the flag says whether its figures will be reported."""
    read: Callable[[Path], Mapping[str, Any]]
    """What a finished run says: its `validation_loss`, which chooses; `results`, figures by variant of the model;
    `seconds_per_step`, `peak_memory_mb`, `trainable_parameters`."""
    notes: tuple[str, ...] = ()
    """More that has to be said of them."""


def compare(settings: ComparisonSettings, protocol: Protocol) -> str:
    """Chooses rates, trains at them, and writes compare.json, compare.md and compare.png.

    A method with a single rate has nothing to choose: it is trained at that one. Runs that diverged count as the worst.

    Returns:
        the table and what has to be said of it, in Markdown.

    Raises:
        RuntimeError, ValueError: a run failed, or its files are damaged.
    """
    tried, methods = settings.rates, settings.methods
    swept = _outcomes(
        settings,
        protocol,
        [
            (method, rate, seed)
            for seed in settings.chosen_with
            for rate in sorted({rate for rates in tried.values() for rate in rates})
            for method in methods
            if rate in tried[method] and len(tried[method]) > 1
        ],
        reported=False,
    )
    choices = {method: choose(tried[method], [one for one in swept if one["method"] == method]) for method in methods}
    rates = {method: choice.rate for method, choice in choices.items() if choice.rate is not None}
    at_best = [(method, rates[method], seed) for seed in settings.seeds for method in methods if method in rates]
    final = _outcomes(settings, protocol, at_best, reported=True)
    seeds = "seed " + ", ".join(map(str, settings.chosen_with))
    notes = [
        f"Each method's learning rate was chosen by the loss of {protocol.chosen_by}, with {seeds}.",
        f"The figures are of {protocol.reported_on}: they chose nothing.",
        *protocol.notes,
        *in_words(choices, final),
    ]
    swept = sorted(swept, key=lambda one: methods.index(one["method"]))  # colours of the plot
    text = "\n".join([f"# {protocol.title}", "", summary(choices, final), "", *(f"- {note}" for note in notes)])
    _write(settings, protocol, choices, swept, final, text)
    return text


def choose(tried: Sequence[float], swept: Sequence[Result]) -> Choice:
    """The rate of the lowest mean loss over the choosing seeds; of equal ones, the lowest rate.

    Args:
        tried: the method's rates, sorted.
        swept: its runs; none where there is a single rate.
    """
    if len(tried) == 1:
        return Choice(tried[0], tuple(tried), {})
    found: dict[float, list[float]] = {rate: [] for rate in tried}
    for one in swept:
        loss = one["validation_loss"]
        found[one["learning_rate"]].append(math.inf if loss is None or math.isnan(loss) else loss)
    losses = {rate: fmean(values) for rate, values in found.items()}
    best = min(losses, key=losses.__getitem__)
    return Choice(best if math.isfinite(losses[best]) else None, tuple(tried), losses)


def _outcomes(
    settings: ComparisonSettings, protocol: Protocol, runs: Sequence[tuple[str, float, int]], reported: bool
) -> list[dict[str, Any]]:
    """Makes the runs that aren't there, and reads them; one that diverged has no loss and no results."""
    trainings = [protocol.training(*run, reported) for run in runs]
    run_all(trainings, settings.jobs)
    found = []
    for (method, rate, seed), training in zip(runs, trainings, strict=True):
        diverged = not training.is_done(training.folder) and (training.folder / DIVERGED_FILE).is_file()
        said: Mapping[str, Any] = {"validation_loss": None, "results": {}}
        if not diverged:
            said = protocol.read(training.folder)
            _check_figures(said, training.folder)
        found.append({**said, "method": method, "learning_rate": rate, "seed": seed, "diverged": diverged})
    return found


def _check_figures(said: Mapping[str, Any], folder: Path) -> None:
    """Whether what a run says can be compared: a file that was damaged later may be JSON all the same.

    Raises:
        ValueError: it can't; the message names the figure.
    """
    figures = [(name, said[name]) for name in ("seconds_per_step", "peak_memory_mb", "trainable_parameters")]
    wrong = [(name, value) for name, value in figures if not is_number(value)]
    results, may_be_null = said["results"], [("validation_loss", said["validation_loss"])]  # null: NaN has no JSON
    for row in results.values() if isinstance(results, Mapping) else [results]:
        may_be_null += row.items() if isinstance(row, Mapping) else [("results", [row])]
    wrong += [(name, value) for name, value in may_be_null if not (value is None or is_number(value))]
    for name, value in wrong:
        raise ValueError(
            f"The run in {folder} has {str(value)[:60]!r} for {name}: one of its files is damaged. Remove that folder, "
            "and start the same command again."
        )


def _write(
    settings: ComparisonSettings,
    protocol: Protocol,
    choices: Mapping[str, Choice],
    swept: Sequence[Result],
    final: Sequence[Result],
    text: str,
) -> None:
    folder = settings.folder
    said = {
        "title": protocol.title,
        "rates_chosen_by": protocol.chosen_by,
        "choosing_seeds": settings.chosen_with,
        "reported_on": protocol.reported_on,
        "seeds": settings.seeds,
        "chosen": {method: choice.to_json() for method, choice in choices.items()},
        "sweep": swept,
        "best": final,
    }
    write_json(folder / "compare.json", said)
    (folder / "compare.md").write_text(text + "\n", encoding="utf-8")
    try:
        plot(swept, final, folder / "compare.png", protocol.title)
    except ImportError:
        print("compare.png is not drawn: it needs matplotlib. Run: pip install matplotlib")
