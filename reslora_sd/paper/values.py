"""The figures of an item's cells, from the runs that are there; what isn't there is a gap. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from . import reading
from .items import Cell, Need, X
from .keys import Run
from .planning import Plan

_UNREADABLE = 0.5
"""Above this share of answers in which nothing can be read, there is an X, as in the paper."""


@dataclass(frozen=True)
class Value:
    """What the runs say of one cell."""

    by_seed: dict[int, float] = field(default_factory=dict)
    wanted: int = 0
    """Seeds."""
    unreadable: float = 0.0
    """Mean share of answers that can't be read."""
    gap: str = ""
    """Why seeds are missing; empty where none is."""

    @property
    def mean(self) -> float | None:
        """Over seeds; `None` without any."""
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; `None` of fewer than two."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def is_x(self) -> bool:
        """Whether more than half of the answers can't be read."""
        return bool(self.by_seed) and self.unreadable > _UNREADABLE

    def text(self) -> str:
        """For a table: mean and spread, X, or a gap."""
        if self.mean is None:
            return "gap"
        if self.is_x:
            return X
        seeds = f" ({len(self.by_seed)} of {self.wanted} seeds)" if len(self.by_seed) < self.wanted else ""
        return f"{self.mean:.2f}" + (f" ± {self.spread:.2f}" if self.spread is not None else "") + seeds

    def difference(self, paper: float | str | None) -> float | None:
        """Ours less the paper's, where both are figures."""
        if self.mean is None or self.is_x or not isinstance(paper, float | int):
            return None
        return self.mean - paper

    def to_json(self) -> dict[str, Any]:
        """For ITEM.json."""
        return {
            "mean": None if self.is_x else self.mean,
            "spread": None if self.is_x else self.spread,
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "seeds_wanted": self.wanted,
            "unreadable": self.unreadable,
            "x": self.is_x,
            "gap": self.gap,
        }


def why_missing(plan: Plan, need: Need) -> str:
    """Why a need has no runs at all; empty where it has."""
    if not plan.preset.has(need):
        return f"the preset leaves out {need.method} on {need.task}"
    if need in plan.diverged:
        return f"{need.method} diverged on {need.task} at every rate"
    if need in plan.waiting:
        return f"the sweep that chooses the rate of {need.method} on {need.task} isn't done"
    return ""


def done_runs(plan: Plan, need: Need) -> tuple[dict[int, Path], str]:
    """The folders of a need's finished runs by seed, and why others are missing."""
    if why := why_missing(plan, need):
        return {}, why
    runs = {run.seed: run for run in plan.reported(need)}
    states = {seed: _state(plan, run) for seed, run in runs.items()}
    folders = {seed: run.folder(plan.place) for seed, run in runs.items() if states[seed] == reading.DONE}
    others = [
        f"seed {seed} {'diverged' if state == reading.DIVERGED else 'is ' + state}" for seed, state in states.items()
    ]
    missing = [said for said, state in zip(others, states.values(), strict=True) if state != reading.DONE]
    return folders, f"{need.method} on {need.task}: {', '.join(missing)}" if missing else ""


def _state(plan: Plan, run: Run) -> str:
    return reading.status_of(run.folder(plan.place), run.need.task, evaluated=True)


def value_of(cell: Cell, plan: Plan) -> Value:
    """What the finished runs of a cell say."""
    wanted = len(plan.preset.seeds)
    folders, gap = done_runs(plan, cell.need)
    lora: dict[int, Path] = {}
    if cell.figure == "compared_to_lora":
        lora, _ = done_runs(plan, Need(cell.need.task, "lora"))
    values, shares = dict[int, float](), []
    for seed, folder in folders.items():
        value, share = _figure(cell, folder, lora.get(seed))
        if value is None:
            gap = gap or f"{cell.need.method} on {cell.need.task}: seed {seed} doesn't say it"
        else:
            values[seed] = value
            shares.append(share)
    return Value(values, wanted, fmean(shares) if shares else 0.0, gap)


def _figure(cell: Cell, folder: Path, lora: Path | None) -> tuple[float | None, float]:
    """A cell's figure of one run, and the share of its answers that can't be read."""
    if cell.figure == "metric":
        figures = reading.form_of(folder, cell.form)
        value = reading.metric_in(figures, cell.metric)
        return None if value is None else 100 * value, reading.number(figures, "unreadable") or 0.0
    if cell.figure == "by_epoch":
        rows = reading.by_epoch(folder)
        if cell.place >= len(rows):
            return None, 0.0
        _, value, share = rows[cell.place]
        return 100 * value, share
    if cell.figure == "peak_memory_mb":
        return reading.number(reading.results_of(folder), "peak_memory_mb"), 0.0
    own, of_lora = _epoch(folder), _epoch(lora) if lora else None
    if cell.figure == "seconds_an_epoch":
        return own, 0.0
    return (100 * own / of_lora, 0.0) if own and of_lora else (None, 0.0)


def _epoch(folder: Path) -> float | None:
    """Seconds of the steps of an epoch."""
    found = reading.results_of(folder)
    step, steps = reading.number(found, "seconds_per_step"), reading.number(found, "steps_per_epoch")
    return step * steps if step and steps else None
