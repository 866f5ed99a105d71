"""What a comparison says: each method's rate and why, a table over seeds, and the sweep as a plot. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Result = Mapping[str, Any]
"""What a run says, with its method, rate and seed."""


@dataclass(frozen=True)
class Choice:
    """A method's learning rate."""

    rate: float | None
    """`None` where it diverged at all that were tried."""
    tried: tuple[float, ...]
    """Sorted."""
    losses: Mapping[float, float]
    """By rate: the mean loss that chose; infinite where a run diverged. Empty where there was one rate."""

    @property
    def at_the_end(self) -> bool:
        """Whether it is the lowest or highest of several: a better one may lie beyond."""
        return len(self.tried) > 1 and self.rate in (self.tried[0], self.tried[-1])

    @property
    def tied(self) -> list[float]:
        """All rates with the lowest loss, if these are several."""
        best = [rate for rate, loss in self.losses.items() if self.rate and loss == self.losses[self.rate]]
        return best if len(best) > 1 else []

    def to_json(self) -> dict[str, Any]:
        """For compare.json; a loss of `None` is that of a run that diverged."""
        return {
            "learning_rate": self.rate,
            "tried": list(self.tried),
            "losses": {f"{rate:g}": loss if math.isfinite(loss) else None for rate, loss in self.losses.items()},
            "at_the_end": self.at_the_end,
            "tied": self.tied,
        }


def in_words(choices: Mapping[str, Choice], final: Sequence[Result]) -> list[str]:
    """A sentence for each thing that a reader of the table has to know."""
    said = []
    for method, choice in choices.items():
        rates = ", ".join(f"{rate:g}" for rate in choice.tried)
        lost = ", ".join(f"{rate:g}" for rate, loss in choice.losses.items() if not math.isfinite(loss))
        seeds = [str(one["seed"]) for one in final if one["method"] == method and one["diverged"]]
        if choice.rate is None:
            said.append(f"{method} diverged at every rate ({rates}), and is left out. Try lower ones.")
        elif lost:
            said.append(f"{method} diverged at {lost}, which counts as the worst.")
        if len(choice.tried) == 1:
            said.append(f"{method} was tried at {rates} only: nothing chose its rate.")
        if choice.at_the_end:
            end = "lowest" if choice.rate == choice.tried[0] else "highest"
            said.append(
                f"\\* {method}: {choice.rate:g} is the {end} of its rates ({rates}). A better one may lie beyond: try "
                f"more with --rates_for {method}."
            )
        if choice.tied:
            tied = " and ".join(f"{rate:g}" for rate in choice.tied)
            said.append(f"{method}: {tied} have the same loss; the lowest was taken.")
        if seeds:
            said.append(f"{method} diverged at its rate with seed {', '.join(seeds)}, so it has no means.")
    if len({one["seed"] for one in final}) == 1:
        said.append("There is one seed, so the spread over seeds is unknown.")
    return said


def summary(choices: Mapping[str, Choice], final: Sequence[Result]) -> str:
    """A Markdown table of the final runs: a row for each method and variant; means and standard deviations over seeds.

    A rate at the end of those that were tried has a star.
    """
    figures = list(dict.fromkeys(key for one in final for row in one["results"].values() for key in row))
    head = ["method", "rate", "variant", *figures, "validation loss", "s a step", "MB", "parameters"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method in dict.fromkeys(one["method"] for one in final):
        runs = [one for one in final if one["method"] == method]
        rate = f"{choices[method].rate:g}" + (" *" if choices[method].at_the_end else "")
        if any(one["diverged"] for one in runs):
            lines.append("| " + " | ".join([method, rate, "diverged", *[""] * (len(figures) + 4)]) + " |")
            continue
        for variant in runs[0]["results"]:
            cells = [method, rate, variant]
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


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; 0 of a single one."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean, deviation = over_seeds(known)
    return f"{mean:.4f}" + (f" ± {deviation:.4f}" if len(known) > 1 else "")


def plot(swept: Sequence[Result], final: Sequence[Result], path: Path, title: str) -> None:
    """The loss that chooses against the learning rate, a line for each method; crosses are all seeds.

    Runs that diverged have no place in it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(one["method"] for one in (*swept, *final)):
        losses: dict[float, list[float]] = {}
        for one in swept:
            if one["method"] == method and not one["diverged"]:
                losses.setdefault(one["learning_rate"], []).append(one["validation_loss"])
        points = sorted((rate, fmean(values)) for rate, values in losses.items())
        (line,) = axes.plot([rate for rate, _ in points], [loss for _, loss in points], marker="o", label=method)
        for one in final:
            if one["method"] == method and not one["diverged"]:
                axes.plot(one["learning_rate"], one["validation_loss"], marker="x", color=line.get_color())
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss that chooses the rate", title=title)
    rates = sorted({one["learning_rate"] for one in (*swept, *final)})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
