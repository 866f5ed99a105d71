"""What a sweep says: each method's best learning rate, a table over seeds, and the sweep as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..training.comparison import over_seeds

Result = Mapping[str, Any]
"""A results.json."""


def best_rates(swept: Sequence[Result]) -> dict[str, float]:
    """Of each method, the rate of the lowest loss on the rows that were kept apart.

    Raises:
        ValueError: no run of a method has such a loss.
    """
    losses: dict[str, dict[float, float]] = {}
    for result in swept:
        of_method = losses.setdefault(result["method"], {})
        if result["validation_loss"] is not None:
            of_method[result["learning_rate"]] = result["validation_loss"]
    for method, found in losses.items():
        if not found:
            raise ValueError(f"No run of {method} has a loss of rows kept apart. Set --validation_samples above 0.")
    return {method: min(found, key=found.__getitem__) for method, found in losses.items()}


def summary(swept: Sequence[Result], final: Sequence[Result]) -> str:
    """A Markdown table of the final runs: a row for each method and variant; means and standard deviations over seeds.

    A rate at the end of those that the sweep tried for its method has a star: a better one may lie beyond.
    """
    figures = list(dict.fromkeys(key for one in final for row in one["results"].values() for key in row))
    head = ["method", "rate", "variant", *figures, "validation loss", "s a step", "MB", "parameters"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method in dict.fromkeys(one["method"] for one in final):
        runs = [one for one in final if one["method"] == method]
        rate = runs[0]["learning_rate"]
        rates = {one["learning_rate"] for one in swept if one["method"] == method}
        star = " *" if len(rates) > 1 and rate in (min(rates), max(rates)) else ""
        for variant in runs[0]["results"]:
            cells = [method, f"{rate:g}{star}", variant]
            cells += [_mean([one["results"][variant].get(figure) for one in runs]) for figure in figures]
            if variant == "unmerged":
                cells += [_mean([one["validation_loss"] for one in runs])]
                cells += [f"{fmean(one[key] for one in runs):.{digits}f}" for key, digits in _COSTS]
                cells += [f"{runs[0]['trainable_parameters']:,}"]
            else:
                cells += [""] * 4
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_COSTS = (("seconds_per_step", 2), ("peak_memory_mb", 0))


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean, deviation = over_seeds(known)
    return f"{mean:.4f}" + (f" ± {deviation:.4f}" if len(known) > 1 else "")


def plot(swept: Sequence[Result], final: Sequence[Result], path: Path, title: str) -> None:
    """Loss on the rows kept apart against the learning rate, a line for each method; crosses are all seeds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(one["method"] for one in swept):
        points = sorted((one["learning_rate"], one["validation_loss"]) for one in swept if one["method"] == method)
        (line,) = axes.plot(*zip(*points, strict=True), marker="o", label=method)
        for one in final:
            if one["method"] == method:
                axes.plot(one["learning_rate"], one["validation_loss"], marker="x", color=line.get_color())
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss of rows kept apart", title=title)
    rates = sorted({one["learning_rate"] for one in swept})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
