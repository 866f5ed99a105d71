"""Tables and plots of the runs that are there: held-out loss by rate, differences of training losses, shares."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..runs.jsonl import is_number
from .sweep import Run, read_runs

_SIDE = ("reslora_is", "lora"), ("reslora_is", "reslora_frozen")
"""Pairs whose training losses are compared, step by step."""


def rates_of(runs: Iterable[Run]) -> dict[tuple[str, float], list[float]]:
    """By method and rate: the held-out losses after the last step, of all seeds; infinite for runs that diverged."""
    found: dict[tuple[str, float], list[float]] = {}
    for run in runs:
        held = [value for value in run["held_out"].values() if is_number(value)]
        done = held and len(held) == len(run["held_out"]) and all(map(is_number, run["losses"]))
        found.setdefault((run["kind"], run["learning_rate"]), []).append(held[-1] if done else math.inf)
    return found


def differences(runs: Sequence[Run], one: str, other: str, rate: float) -> list[float]:
    """|training loss of one - of the other| by step, the mean over the seeds that both have."""
    losses = {(run["kind"], run["seed"]): run["losses"] for run in runs if run["learning_rate"] == rate}
    seeds = [seed for kind, seed in losses if kind == one and (other, seed) in losses]
    pairs = [zip(_numbers(losses[one, seed]), _numbers(losses[other, seed]), strict=False) for seed in seeds]
    return [fmean(abs(a - b) for a, b in step) for step in zip(*pairs, strict=False)] if pairs else []


def _numbers(losses: Sequence[Any]) -> list[float]:
    """Those before a run fell apart."""
    return list(takewhile(is_number, losses))


def shares(runs: Iterable[Run], key: str) -> dict[str, float]:
    """The shares of the first run that has any, of blocks that don't read the text; k and v are as q."""
    for run in runs:
        found = run.get(key)
        if isinstance(found, dict) and found:
            return {name: value for name, value in found.items() if is_number(value) and value < 1}
    return {}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not all(map(math.isfinite, values)):
        return "diverged"
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def table(runs: Sequence[Run]) -> str:
    """A row a method, a column a rate; in brackets how many seeds, where they are not as many as elsewhere."""
    found = rates_of(runs)
    kinds, rates = sorted({kind for kind, _ in found}), sorted({rate for _, rate in found})
    most = max(map(len, found.values()), default=0)
    lines = ["| method | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "| --- |" + " --- |" * len(rates)]
    for kind in kinds:
        cells = []
        for rate in rates:
            values = found.get((kind, rate), [])
            fewer = f" ({len(values)})" if 0 < len(values) < most else ""
            cells.append(f"{spread(values)}{fewer}" if values else "-")
        lines.append(f"| `{kind}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(name: str, runs: Sequence[Run]) -> str:
    """What the runs of one folder say, as Markdown."""
    seeds = len({run["seed"] for run in runs})
    lines = [f"### {name}: {len(runs)} runs, {seeds} seeds", "", table(runs), ""]
    for rate in sorted({run["learning_rate"] for run in runs}):
        means = [(one, other, differences(runs, one, other, rate)) for one, other in _SIDE]
        told = [f"{one} and {other} differ by {fmean(found):.4f}" for one, other, found in means if found]
        if told:
            lines.append(f"- Training losses at {rate:g}, mean of |difference| a step: {'; '.join(told)}.")
    for key, what in (("explained", "of the base model"), ("explained_after", "after training reslora_is")):
        found = shares(runs, key).values()
        if found:
            lines.append(
                f"- x_n explains {100 * fmean(found):.0f} % of x_(n-1) {what} "
                f"({100 * min(found):.0f} to {100 * max(found):.0f} % by block)."
            )
    return "\n".join(lines)


def render(out: Path, plots: Path, warn: Callable[[str], None] = warnings.warn) -> str:
    """Draws what the folders of results hold; gives the tables, which are written beside the plots, too.

    Raises:
        FileNotFoundError: there is no result.
        ImportError: matplotlib is not installed.
    """
    folders = {folder.name: read_runs(folder, warn) for folder in sorted(out.glob("*-*-*")) if folder.is_dir()}
    folders = {name: runs for name, runs in folders.items() if runs}
    if not folders:
        raise FileNotFoundError(f"{out} holds no results. Run `python -m reslora_sd.why pictures` first.")
    plots.mkdir(parents=True, exist_ok=True)
    for draw, file in ((_rates, "why_rates.png"), (_differences, "why_losses.png"), (_shares, "why_shares.png")):
        draw(folders, plots / file)
    text = "\n\n".join(summary(name, runs) for name, runs in folders.items())
    (plots / "why.md").write_text(text + "\n", encoding="utf-8")
    return text


def _figure(columns: int) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("The plots need matplotlib. Run: pip install matplotlib") from None
    figure = Figure(figsize=(5.2 * columns, 3.8), dpi=110, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _rates(folders: dict[str, list[Run]], path: Path) -> None:
    figure, places = _figure(len(folders))
    for axes, (name, runs) in zip(places, folders.items(), strict=True):
        found = rates_of(runs)
        for kind in sorted({kind for kind, _ in found}):
            points = sorted((rate, values) for (one, rate), values in found.items() if one == kind)
            points = [(rate, values) for rate, values in points if all(map(math.isfinite, values))]
            means = [fmean(values) for _, values in points]
            errors = [stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            axes.errorbar([rate for rate, _ in points], means, errors, marker="o", capsize=3, label=kind)
        rates = sorted({rate for _, rate in found})
        axes.set(xscale="log", xlabel="learning rate", ylabel="held-out loss", title=name)
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xticks([], minor=True)
        _finish(axes)
    figure.savefig(path)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.legend()


def _differences(folders: dict[str, list[Run]], path: Path) -> None:
    figure, places = _figure(len(folders))
    for axes, (name, runs) in zip(places, folders.items(), strict=True):
        rate = min(run["learning_rate"] for run in runs)
        for one, other in _SIDE:
            found = differences(runs, one, other, rate)
            axes.plot(range(1, len(found) + 1), found, label=f"|{one} - {other}|")
        axes.set(xlabel="step", ylabel="difference of training losses", title=f"{name}, rate {rate:g}")
        _finish(axes)
    figure.savefig(path)


def _shares(folders: dict[str, list[Run]], path: Path) -> None:
    figure, places = _figure(len(folders))
    for axes, (name, runs) in zip(places, folders.items(), strict=True):
        for key, marker, label in (("explained", "o", "base model"), ("explained_after", "x", "after reslora_is")):
            found = sorted(shares(runs, key).values())
            axes.plot([100 * value for value in found], marker=marker, linestyle="none", label=label, alpha=0.7)
        axes.set(xlabel="blocks with a path, sorted", ylabel="share of x_(n-1) that x_n explains, %", title=name)
        axes.set_ylim(0, 100)
        _finish(axes)
    figure.savefig(path)
