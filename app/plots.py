"""Plots of curves with bands, as SVG in the page's colours, each with a legend that is text of the page: it wraps."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .curves import COLOURS, limits, mark
from .drawings import alone, as_svg, ink
from .seeds import Line

_SIZE = (3.35, 2.3)
"""Inches: 322 pixels wide, which a phone has."""


def figure(lines: Sequence[Line], title: str, name: str, step: int | None = None, unit: str = "step") -> str:
    """A plot as HTML: its title, the curves, and a legend with the values at the chosen step, or at the end.

    Args:
        name: what the element is called in the page.
        step: where an upright line is.
        unit: what is counted along the axis.
    """
    head = f"<h3>{html.escape(title)}</h3>"
    if not lines:
        return f'<figure class="curve" id="{name}">{head}<p class="say">No ticked run has it.</p></figure>'
    drawn = _draw(lines, title, step, unit)
    rows = "".join(_row(place, line, step, unit) for place, line in enumerate(lines))
    chosen = f'<li><i class="swatch upright"></i>{html.escape(mark(step))}</li>' if step is not None else ""
    return f'<figure class="curve" id="{name}">{head}{drawn}<ul class="legend">{rows}{chosen}</ul></figure>'


def side_by_side(figures: Sequence[str]) -> str:
    """Several of `figure`, as many in a row as there is room for."""
    return f'<div class="curve-grid">{"".join(figures)}</div>'


def _row(place: int, line: Line, step: int | None, unit: str) -> str:
    place_of, value = line.at(step)
    dashed = " dashed" if place >= len(COLOURS) else ""
    return (
        f'<li><i class="swatch{dashed}" style="border-color:{COLOURS[place % len(COLOURS)]}"></i>'
        f"<span>{html.escape(line.name)}</span> <b>{value:.4g}</b> at {unit} {place_of}</li>"
    )


@alone
def _draw(lines: Sequence[Line], title: str, step: int | None, unit: str) -> str:
    picture = Figure(figsize=_SIZE, layout="constrained")
    axes = picture.subplots()
    for place, line in enumerate(lines):
        colour, few = COLOURS[place % len(COLOURS)], len(line.steps) < 3
        style = "--" if place >= len(COLOURS) else "-"
        if line.low != line.high:
            axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.22, linewidth=0)
        axes.plot(
            line.steps, line.values, style, color=colour, linewidth=1.4, marker="o" if few else None, markersize=3
        )
    if step is not None:
        axes.axvline(step, color="#8a837d", linewidth=1, linestyle=":")
    ends = limits([value for line in lines for value in (*line.low, *line.high)])
    axes.set_ylim(*ends)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(alpha=0.25)
    ink(axes)
    said = "; ".join(f"{line.name} {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in lines)
    last = max(line.steps[-1] for line in lines)
    assert math.isfinite(ends[1])
    return as_svg(picture, f"{title} by {unit}, to {unit} {last}: {said}")
