"""Figures 1, 4 and 6: accuracy by epoch, and training loss by step. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from . import reading
from .items import Item
from .planning import Plan
from .rendered import Rendered, mean_curves, nothing_here, plain, signed, table
from .values import done_runs

Curve = list[tuple[int, float]]


def render_accuracy(item: Item, plan: Plan) -> Rendered:
    """Figure 1: the mean accuracy over seeds after each epoch that was measured."""
    curves, gaps = _curves(item, plan, by_epoch=True)
    lora = curves[item.rows[0]]
    lines, compared = [], []
    for place, (name, papers) in enumerate(zip(item.rows, item.papers, strict=True)):
        ours = _against(lora, curves[name])
        compared.append({"row": name, "paper": papers, "times_as_fast": ours[0], "percent_better": ours[1]})
        if place == 0:
            lines.append([name, "compared with", "compared with"])
            continue
        there = bool(lora and curves[name])
        lines.append([name, *(_compared(*pair, there) for pair in zip(papers or [None, None], ours, strict=True))])
    text = "Each cell: the paper's figure / ours / difference, of the mean over seeds.\n\n"
    text += table(["", *item.columns], lines) + "\n\n" + _listed(curves, "epoch", "{:.2f}")
    return _rendered(item, text, curves, gaps, "epoch", "accuracy, %", {"compared": compared})


def _compared(paper: float | None, ours: float | None, there: bool) -> str:
    """A cell; where both curves are there and give no figure, it never happened."""
    said = f"{ours:.2f}" if ours is not None else "never" if there else "gap"
    difference = signed(ours - paper) if ours is not None and paper is not None else ""
    return " / ".join(part for part in (plain(paper), said, difference) if part)


def _against(lora: Curve, other: Curve) -> tuple[float | None, float | None]:
    """How many times as fast the other one reaches LoRA's last accuracy, and how many per cent better it ends; nothing
    where LoRA has learned nothing.
    """
    if not lora or not other or lora[-1][1] <= 0:
        return None, None
    last = lora[-1][1]
    first, reached = (next((epoch for epoch, value in one if value >= last), None) for one in (lora, other))
    return (first / reached if first and reached else None), 100 * (other[-1][1] / last - 1)


def render_losses(item: Item, plan: Plan) -> Rendered:
    """Figures 4 and 6: the mean training loss over seeds, each point the mean of a fiftieth of the training."""
    whole, gaps = _curves(item, plan, by_epoch=False)
    curves = {name: _part(_smooth(curve), *item.part) for name, curve in whole.items()}
    last = {name: curve[-1][1] for name, curve in curves.items() if curve}
    said = "The loss at the end of each curve, from the lowest: "
    said += ", ".join(f"{name} {last[name]:.4f}" for name in sorted(last, key=last.__getitem__)) or "gap"
    holds = None
    if len(last) == len(item.rows):
        order = sorted(last, key=last.__getitem__)
        holds = order[-1] == item.rows[0] and order[0] == item.rows[-1]
        said += f".\n\nThe paper's order (0 the highest, -1 the lowest): {'holds' if holds else 'does not hold'}"
    return _rendered(item, said + ".", curves, gaps, "step", "training loss", {"last": last, "paper_holds": holds})


def _curves(item: Item, plan: Plan, by_epoch: bool) -> tuple[dict[str, Curve], list[str]]:
    """Each row's curve, the mean over its seeds, and what is missing."""
    found, gaps = {}, []
    for name, need in zip(item.rows, item.needs, strict=True):
        folders, gap = done_runs(plan, need)
        if by_epoch:
            seeds = [[(epoch, 100 * value) for epoch, value, _ in reading.by_epoch(one)] for one in folders.values()]
        else:
            seeds = [reading.losses(one) for one in folders.values()]
        found[name] = mean_curves([one for one in seeds if one])
        if not gap and not found[name]:
            gap = f"{name}: the runs don't say it"
        gaps += [gap] if gap else []
    return found, gaps


def _smooth(curve: Curve, points: int = 50) -> Curve:
    """Means of equal parts of the curve, at their last steps."""
    size = max(1, len(curve) // points)
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _part(curve: Curve, start: float, stop: float) -> Curve:
    last = curve[-1][0] if curve else 0
    return [(step, value) for step, value in curve if start * last <= step <= stop * last]


def _listed(curves: dict[str, Curve], what: str, form: str) -> str:
    """A table of the curves' points."""
    places = sorted({place for curve in curves.values() for place, _ in curve})
    lines = []
    for name, curve in curves.items():
        values = dict(curve)
        lines.append([name, *(form.format(values[one]) if one in values else "gap" for one in places)])
    return table([what, *map(str, places)], lines) if places else ""


def _rendered(
    item: Item, text: str, curves: dict[str, Curve], gaps: Sequence[str], x: str, y: str, more: dict[str, Any]
) -> Rendered:
    rows = [{"row": name, x: place, y: value} for name, curve in curves.items() for place, value in curve]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, curve in curves.items():
            if curve:
                marker = "o" if len(curve) < 12 else ""
                axes.plot([place for place, _ in curve], [value for _, value in curve], marker=marker, label=name)
        if not any(curves.values()):
            nothing_here(axes)
            return
        axes.set(xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    return Rendered(
        text, rows, {"curves": {name: list(map(list, one)) for name, one in curves.items()}, **more}, gaps, draw
    )
