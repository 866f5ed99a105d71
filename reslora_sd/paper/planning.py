"""Which trainings items need, at which rates, and how far they are. Starts nothing; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ..diffusion.defaults import defaults_for
from .items import PICTURES, Item, Need, needs_of
from .keys import Place, Run, make_run
from .presets import Preset
from .reading import kept_loss


@dataclass
class Planned:
    """A training, and what it is for."""

    run: Run
    items: list[str]
    evaluated: bool = False
    """Whether its figures are reported; of one that only chooses a rate, the loss of the kept rows alone counts."""


@dataclass
class Plan:
    """All trainings of some items."""

    preset: Preset
    place: Place
    runs: dict[str, Planned] = field(default_factory=dict)
    """By key, in the order in which they are to run."""
    rates: dict[Need, float | None] = field(default_factory=dict)
    """Of each need: `None` until its sweep is done, or where it diverged at every rate."""
    waiting: dict[Need, list[str]] = field(default_factory=dict)
    """Needs whose sweep isn't done, and their items."""
    diverged: list[Need] = field(default_factory=list)
    """Needs that diverged at every rate."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Tasks, or methods on a task, that the preset doesn't have, and the items that want them."""

    def reported(self, need: Need) -> list[Run]:
        """The runs of a need, one a seed; none while its rate isn't known."""
        rate = self.rates.get(need)
        if rate is None:
            return []
        return [make_run(self.preset, self.place, need, rate, seed) for seed in self.preset.seeds]

    def add(self, run: Run, items: Sequence[str], evaluated: bool) -> None:
        """Notes a training; one that several need is there once."""
        planned = self.runs.setdefault(run.key, Planned(run, []))
        planned.items = list(dict.fromkeys([*planned.items, *items]))
        planned.evaluated = planned.evaluated or evaluated


def make_plan(items: Sequence[Item], preset: Preset, place: Place) -> Plan:
    """The plan, with the rates that the runs in the output folder have chosen so far.

    Sweeps come first, as `choosing_seeds` of each rate; then the runs that are reported, seed by seed.

    Raises:
        ValueError: there are several rates, and no rows that would choose one.
    """
    plan = Plan(preset, place)
    needs = needs_of(items)
    for need, names in needs.items():
        if preset.has(need):
            _choose(plan, need, names)
        else:
            what = need.task if need.task not in preset.values["tasks"] else f"{need.method} on {need.task}"
            known = plan.left_out.setdefault(what, [])
            known += [name for name in names if name not in known]
    for seed in range(len(preset.seeds)):
        for need, names in needs.items():
            for run in plan.reported(need)[seed : seed + 1]:
                plan.add(run, names, evaluated=True)
    return plan


def _choose(plan: Plan, need: Need, names: Sequence[str]) -> None:
    """Plans the sweep of a need, and notes its rate: the lowest mean loss of the kept rows, of equal ones the lowest
    rate.
    """
    rates = plan.preset.rates(need.chooses)
    if len(rates) == 1:
        plan.rates[need] = rates[0]
        return
    flags = plan.preset.flags(need.chooses)
    kept = (defaults_for(flags) | flags if need.task == PICTURES else flags).get("validation_samples")
    if not kept:
        raise ValueError(
            f"The preset {plan.preset.name} has {len(rates)} rates for {need.method} on {need.task}, and keeps no rows "
            f"to choose one by. Add validation_samples to the flags (--set {need.task}.validation_samples=64), or give "
            "one rate."
        )
    means: dict[float, float] = {}
    for rate in rates:
        losses = []
        for seed in plan.preset.choosing_seeds:
            run = make_run(plan.preset, plan.place, need.chooses, rate, seed)
            plan.add(run, names, evaluated=False)
            losses.append(kept_loss(run.folder(plan.place), need.task))
        known = [loss for loss in losses if loss is not None]
        if len(known) == len(losses):
            means[rate] = fmean(known)
    if len(means) < len(rates):
        plan.waiting[need] = list(names)
        plan.rates[need] = None
        return
    best = min(rates, key=means.__getitem__)
    plan.rates[need] = best if math.isfinite(means[best]) else None
    if plan.rates[need] is None:
        plan.diverged.append(need)
