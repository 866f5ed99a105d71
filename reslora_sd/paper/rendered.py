"""What every kind of item gives to be written: text, rows, JSON, and how to draw it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """An item as it is with the runs that are there."""

    text: str
    """Markdown, without title and notes."""
    rows: Sequence[Row]
    """Of the CSV; all have the same keys."""
    data: Mapping[str, Any]
    """For the JSON."""
    gaps: Sequence[str]
    """What is missing and why."""
    draw: Callable[[Any], None]
    """Draws into a figure of matplotlib."""
    size: tuple[float, float] = (8.0, 4.5)
    """Of the figure, in inches."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign; nothing where there is none."""
    return "" if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def plain(value: float | str | None, digits: int = 2) -> str:
    """A figure of the paper; a dash where it has none."""
    if value is None:
        return "\u2013"
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def mean_curves(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean of several curves at the places that all of them have."""
    tables = [dict(curve) for curve in curves]
    if not tables:
        return []
    shared = sorted(set.intersection(*(set(one) for one in tables)))
    return [(place, fmean(one[place] for one in tables)) for place in shared]


def nothing_here(axes: Any) -> None:
    """Marks a part of a figure that has no run."""
    axes.text(0.5, 0.5, "gap: no finished run", ha="center", va="center", transform=axes.transAxes, color="gray")
