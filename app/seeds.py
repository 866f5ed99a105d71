"""Runs that differ only in their seed, put together: their mean, and from the lowest to the highest of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reslora_sd.runs.jsonl import is_step
from reslora_sd.runs.run import Run

from .curves import SMOOTHED, series, smooth, thinned
from .wording import method_name, numbered

EACH, MEAN = "each run", "mean over seeds"
"""Choices of what a line or a row is of."""
_OF_ITS_OWN = frozenset(
    {"seed", "data_seed", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_dir", "run_name"}
)
"""Settings that make no other experiment."""
_MOST_DIFFERENCES, _LONGEST_VALUE = 3, 40
_NONE_TOGETHER = "No two of the ticked runs differ only in their seed, so each is shown by itself."


@dataclass(frozen=True)
class Group:
    """Runs of the same settings with other seeds, or one run."""

    name: str
    runs: tuple[Run, ...]
    left_out: int = 0
    """Runs of the group that lack what is shown."""

    def having(self, has: Callable[[Run], object]) -> Group | None:
        """The group of those runs alone that have something; `None` where none has."""
        kept = tuple(run for run in self.runs if has(run))
        return replace(self, runs=kept, left_out=self.left_out + len(self.runs) - len(kept)) if kept else None

    def told(self, spread: str = "band") -> str:
        """The name for a legend: with the number of seeds, those that are left out, and what shows their spread."""
        count, seeds = len(self.runs), sorted(seed for run in self.runs if (seed := _seed(run)) is not None)
        said = f"({', '.join(map(str, seeds))})"
        if count + self.left_out == 1:
            return self.name
        if count == 1:
            return f"{self.name}: 1 of {1 + self.left_out} seeds {said}, the others don't have it"
        of = f" of {count + self.left_out}" if self.left_out else ""
        return f"{self.name}: mean of {count}{of} seeds {said}, {spread} from the lowest to the highest"

    def apart(self) -> list[Group]:
        """Each run by itself, named by its seed."""
        if len(self.runs) == 1:
            return [self]
        return [Group(f"{self.name}, seed {_seed(run)}", (run,)) for run in self.runs]


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
        named.append(Group(_named(first, others), tuple(inner.values())))
    told = numbered(group.name for group in named)
    return [replace(group, name=name) for group, name in zip(named, told, strict=True)]


def none_together(found: Sequence[Group], how: str) -> str:
    """A sentence where means were asked for, and there are none of several runs."""
    return _NONE_TOGETHER if how == MEAN and len(found) > 1 and all(len(group.runs) == 1 for group in found) else ""


def lines(found: Iterable[Group], metric: str, weight: float) -> list[Line]:
    """A curve for each group that has the metric of the log, each run smoothed by itself."""

    def table(run: Run) -> dict[int, float]:
        steps, values = series(run, metric)
        return dict(zip(steps, smooth(values, weight) if metric in SMOOTHED else values, strict=True))

    return bands(found, table)


def bands(found: Iterable[Group], table: Callable[[Run], dict[int, float]]) -> list[Line]:
    """A curve for each group: of its runs that have values, over the steps that all of these have. Where they have
    no step in common, each has a curve by itself.

    Args:
        table: values of a run by step.
    """
    made = []
    for group in found:
        tables = {run.path: table(run) for run in group.runs}
        having = group.having(lambda run, tables=tables: tables[run.path])  # type: ignore[misc]
        if having is None:
            continue
        line = _line(having, tables)
        made += [line] if line is not None else [one for run in having.apart() if (one := _line(run, tables))]
    return made


def _line(group: Group, tables: Mapping[Path, Mapping[int, float]]) -> Line | None:
    own = [tables[run.path] for run in group.runs]
    shared = sorted(set(own[0]).intersection(*own[1:]))
    if not shared:
        return None
    shared = [shared[place] for place in thinned(len(shared))]
    all_values = np.array([[table[step] for step in shared] for table in own])
    mean, low, high = (how(all_values, axis=0).tolist() for how in (np.mean, np.min, np.max))
    return Line(group.told(), shared, mean, low, high)


def _seed(run: Run) -> int | None:
    seed = run.arguments.get("seed", run.settings.get("seed"))
    return seed if is_step(seed) else None


def _experiment(run: Run) -> str:
    """All that makes a run another experiment than one with another seed; a run whose settings nobody knows is one."""
    kept = {name: value for name, value in run.arguments.items() if name not in _OF_ITS_OWN}
    about: list[Any] = [run.method, run.settings.get("base_model"), _data(run), kept]
    try:
        return json.dumps(about if run.arguments else str(run.path), sort_keys=True, default=str)
    except RecursionError:  # nothing of ours is so deep
        return json.dumps(str(run.path))


def _data(run: Run) -> list[Any]:
    """How much data it was: a file of the same name may have grown. What is left out as too long differs by seed."""
    found = run.settings.get("dataset")
    about = found if isinstance(found, dict) else {}
    rows = [value for name in ("train_rows", "too_long") if is_step(value := about.get(name))]
    return [about.get("name"), about.get("pictures"), about.get("test_rows"), sum(rows)]


def _named(run: Run, others: Sequence[Run]) -> str:
    """The method, and which settings tell the group from others of the same method."""
    names = sorted({name for one in others for name in one.arguments} - _OF_ITS_OWN)
    differ = [name for name in names if any(one.arguments.get(name) != run.arguments.get(name) for one in others)]
    told = (f", {_short(name)} {_short(str(run.arguments.get(name)))}" for name in differ[:_MOST_DIFFERENCES])
    return f"{_short(method_name(run.name))}{''.join(told)}"


def _short(text: str) -> str:
    """The end of a long text: paths differ there."""
    return text if len(text) <= _LONGEST_VALUE else f"\N{HORIZONTAL ELLIPSIS}{text[1 - _LONGEST_VALUE :]}"
