"""Runs that differ only in their seed, put together: their mean, and from the lowest to the highest of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reslora_sd.runs.jsonl import is_step
from reslora_sd.runs.run import Run

from .curves import SMOOTHED, series, smooth, thinned
from .wording import method_name

_OF_ITS_OWN = frozenset(
    {"seed", "data_seed", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_dir", "run_name"}
)
"""Settings that make no other experiment."""
_MOST_DIFFERENCES, _LONGEST_VALUE = 3, 40


@dataclass(frozen=True)
class Group:
    """Runs of the same settings with other seeds, or one run."""

    name: str
    runs: tuple[Run, ...]
    seeds: tuple[int, ...] = ()
    """Of several runs."""

    @property
    def told(self) -> str:
        """The name for a legend: with the number of seeds, and what the band is."""
        if len(self.runs) == 1:
            return self.name
        said = ", ".join(map(str, self.seeds))
        return f"{self.name}: mean of {len(self.runs)} seeds ({said}), band from the lowest to the highest"


@dataclass(frozen=True)
class Line:
    """One curve, with a band where it is of several runs."""

    name: str
    steps: list[int]
    values: list[float]
    low: list[float]
    high: list[float]

    def at(self, step: int | None) -> tuple[int, float]:
        """A step and its value: the last that is no later than `step`; the last of all where there is none such."""
        points = list(zip(self.steps, self.values, strict=True))
        return next((one for one in reversed(points) if step is None or one[0] <= step), points[-1])


def groups(runs: Mapping[str, Run], together: bool = True) -> list[Group]:
    """The runs, in their order; those that differ only in their seed as one, where they are to be put together.

    A second run of the same seed and settings shows nothing about seeds: it stays by itself.
    """
    if not together:
        return [Group(name, (run,)) for name, run in runs.items()]
    found: dict[str, dict[str, Run]] = {}
    for name, run in runs.items():
        key = _experiment(run)
        seed, taken = _seed(run), {_seed(one) for one in found.get(key, {}).values()}
        place = key if seed is not None and seed not in taken else f"{key} {name}"
        found.setdefault(place, {})[name] = run
    several = [tuple(inner.values()) for inner in found.values() if len(inner) > 1]
    named = []
    for inner in found.values():
        first = next(iter(inner.values()))
        if len(inner) == 1:
            named.append(Group(next(iter(inner)), (first,)))
            continue
        others = [one[0] for one in several if one[0].method == first.method]
        seeds = tuple(sorted(seed for run in inner.values() if (seed := _seed(run)) is not None))
        named.append(Group(_named(first, others), tuple(inner.values()), seeds))
    return named


def lines(found: Iterable[Group], metric: str, weight: float) -> list[Line]:
    """A curve for each group that has the metric of the log, each run smoothed by itself."""

    def table(run: Run) -> dict[int, float]:
        steps, values = series(run, metric)
        return dict(zip(steps, smooth(values, weight) if metric in SMOOTHED else values, strict=True))

    return bands(found, table)


def bands(found: Iterable[Group], table: Callable[[Run], dict[int, float]]) -> list[Line]:
    """A curve for each group of which all runs have values: of the steps that all of them have.

    Args:
        table: values of a run by step.
    """
    made = []
    for group in found:
        tables = [table(run) for run in group.runs]
        shared = sorted(set(tables[0]).intersection(*tables[1:]))
        if not shared:
            continue
        shared = [shared[place] for place in thinned(len(shared))]
        all_values = np.array([[table[step] for step in shared] for table in tables])
        mean, low, high = (how(all_values, axis=0).tolist() for how in (np.mean, np.min, np.max))
        made.append(Line(group.told, shared, mean, low, high))
    return made


def _seed(run: Run) -> int | None:
    seed = run.arguments.get("seed", run.settings.get("seed"))
    return seed if is_step(seed) else None


def _experiment(run: Run) -> str:
    """All that makes a run another experiment than one with another seed."""
    kept = {name: value for name, value in run.arguments.items() if name not in _OF_ITS_OWN}
    about: list[Any] = [run.method, run.settings.get("base_model"), kept]
    return json.dumps(about, sort_keys=True, default=str)


def _named(run: Run, others: Sequence[Run]) -> str:
    """The method, and which settings tell the group from others of the same method."""
    names = sorted({name for one in others for name in one.arguments} - _OF_ITS_OWN)
    differ = [name for name in names if any(one.arguments.get(name) != run.arguments.get(name) for one in others)]
    told = "".join(f", {name} {str(run.arguments.get(name))[:_LONGEST_VALUE]}" for name in differ[:_MOST_DIFFERENCES])
    return f"{method_name(run.name)}{told}"
