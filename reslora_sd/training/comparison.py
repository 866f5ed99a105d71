"""What comparisons share: settings of a sweep over methods, rates and seeds, its runs, figures over seeds. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import ClassVar

from ..runs.sweep import Training
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
    seeds: list[int] = option([42, 43, 44], "Seeds of the runs.")
    jobs: int = option(1, "Trainings at once; mind OMP_NUM_THREADS.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, ("jobs",))
        for name in ("methods", "learning_rates", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is empty. Give one or more.")
        check_rates("learning_rates", self.learning_rates)

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return Path(self.output_dir)

    def run_folder(self, method: str, rate: float, seed: int) -> Path:
        """Where one run is."""
        return self.folder / f"{method}-lr{rate:g}-seed{seed}"

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
    """Learning rates must be above 0.

    Raises:
        ValueError: one isn't.
    """
    for rate in rates:
        if not rate > 0:
            raise ValueError(f"--{name} has {rate:g}. It must be above 0.")


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; 0 of a single one."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
