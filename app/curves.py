"""Curves of runs: tables to plot, and how many steps one run needs to come as far as another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from reslora_sd.runs.run import Run

METRICS = {
    "loss": "Training loss",
    "validation_loss": "Loss on held-out pictures",
    "grad_norm": "Gradient norm",
    "seconds": "Seconds a step",
    "memory": "Peak memory, MB",
}
"""Columns of log.jsonl, and what they are called."""
SMOOTHED = ("loss", "grad_norm", "seconds")
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#d946ef", "#eab308", "#06b6d4")
_MOST_POINTS = 300
_LEAST_SPAN = 0.25
"""Of an axis, of the largest value on it."""


def series(run: Run, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where the log has it."""
    rows = [(int(row["step"]), float(row[metric])) for row in run.log if metric in row]
    return [step for step, _ in rows], [value for _, value in rows]


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average, without the pull to 0 at its start: sum w^(n-i) v_i / sum w^(n-i)."""
    return [float(mean) for mean in pd.Series(values, dtype=float).ewm(alpha=1 - weight, adjust=True).mean()]


def table(runs: Mapping[str, Run], metric: str, weight: float = 0.9) -> pd.DataFrame:
    """Rows of step, value and run to plot; at most 300 a run.

    Args:
        weight: of `smooth`, for metrics that are measured at every step; 0 leaves them as they are.
    """
    rows: list[tuple[int, float, str]] = []
    for name, run in runs.items():
        steps, values = series(run, metric)
        values = smooth(values, weight) if metric in SMOOTHED else values
        rows += [(steps[place], values[place], name) for place in thinned(len(steps))]
    return pd.DataFrame(rows, columns=["step", "value", "run"])


def thinned(count: int) -> list[int]:
    """Places of at most about 300 of so many points, the last one among them."""
    every = max(1, count // _MOST_POINTS)
    return [place for place in range(count) if place % every == 0 or place == count - 1]


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis for these values, at least a quarter of their size apart: 1 % doesn't look like a cliff then."""
    low, high = min(values), max(values)
    least = _LEAST_SPAN * max(abs(low), abs(high)) or 1.0
    more = max(0.0, least - (high - low)) / 2
    return (max(0.0, low - more) if low >= 0 else low - more), high + more


def axis(shown: pd.DataFrame) -> list[float | None]:
    """Ends of the axis of a `table`."""
    return [0.0, 1.0] if shown.empty else [*limits(list(shown["value"]))]


def mark(step: int) -> str:
    """What the line of the chosen step is called."""
    return f"step {step} (chosen)"


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each run."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


@dataclass(frozen=True)
class Reach:
    """How soon `other` comes as far as `reference`."""

    metric: str
    """`validation_loss`, or `loss` where a run has no held-out loss."""
    goal: float
    """The lowest value of the reference's curve."""
    steps_of_reference: int
    steps_of_other: int | None
    """`None`: it does not get there."""
    lowest: float
    """Of the other's curve."""


def reach(reference: Run, other: Run, weight: float = 0.9) -> Reach | None:
    """The first step at which the other's loss is at or below the lowest that the reference has anywhere.

    Of the held-out loss where both runs have it at two steps or more, as logged; else of the training loss, smoothed
    with `weight`. `None` without either.
    """
    for metric in ("validation_loss", "loss"):
        steps_a, a = series(reference, metric)
        steps_b, b = series(other, metric)
        if len(a) < 2 or len(b) < 2:
            continue
        if metric == "loss":
            a, b = smooth(a, weight), smooth(b, weight)
            # the first averages are of few steps, so that their lowest is chance
            skip = min(len(a), len(b), 10) - 1
            steps_a, a, steps_b, b = steps_a[skip:], a[skip:], steps_b[skip:], b[skip:]
        goal = min(a)
        there = next((step for step, value in zip(steps_b, b, strict=True) if value <= goal), None)
        return Reach(metric, goal, steps_a[a.index(goal)], there, min(b))
    return None


def reach_text(reference: str, other: str, found: Reach | None) -> tuple[str, str]:
    """The number in large, and its definition with all that belongs to it."""
    if found is None:
        return "no figure", f"{reference} and {other} have no loss in common at two steps or more."
    what = (
        "loss on held-out pictures, as logged (at validation steps only)"
        if found.metric == "validation_loss"
        else "training loss, smoothed as below (neither run, or only one, has a loss on held-out pictures)"
    )
    rule = (
        f"The first step at which the {what}, of {other} is at or below the lowest of {reference} "
        f"({found.goal:.4f}, at step {found.steps_of_reference})."
    )
    if found.steps_of_other is None:
        return "not reached", f"{rule} The lowest of {other} so far is {found.lowest:.4f}. One seed proves no method."
    large = f"{found.steps_of_other} steps, against {found.steps_of_reference}"
    if found.steps_of_other == found.steps_of_reference:
        large = f"as many: {found.steps_of_other}"
    return large, f"{rule} One seed proves no method."
