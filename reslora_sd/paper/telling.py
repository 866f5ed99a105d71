"""The plan in words. No torch."""

from __future__ import annotations

from collections import Counter

from .estimates import lacks, memory_gb, steps_of
from .planning import Plan, Planned
from .reading import DONE, status_of


def told(plan: Plan) -> str:
    """A line for each training, then sums and what is missing."""
    lines = [f"{plan.preset.name}: {plan.preset.values['about']}", ""]
    lines += [_line(plan, planned) for planned in plan.runs.values()]
    lines += ["", *_sums(plan), *_missing(plan)]
    return "\n".join(lines)


def _line(plan: Plan, planned: Planned) -> str:
    run = planned.run
    steps = steps_of(plan.preset, plan.place, run)
    state = status_of(run.folder(plan.place), run.need.task, planned.evaluated)
    what = ", ".join(planned.items) + ("" if planned.evaluated else " (chooses a rate)")
    memory = f"about {memory_gb(plan.preset, run):.1f} GB"
    return f"{run.name}: {state}; {'? steps' if steps is None else f'{steps:,} steps'}, {memory}; for {what}"


def _sums(plan: Plan) -> list[str]:
    states = Counter(
        status_of(one.run.folder(plan.place), one.run.need.task, one.evaluated) for one in plan.runs.values()
    )
    steps = [steps_of(plan.preset, plan.place, one.run) or 0 for one in plan.runs.values()]
    seconds = sum(
        count * plan.preset.family(one.run.need.task).get("seconds_a_step", 0)
        for one, count in zip(plan.runs.values(), steps, strict=True)
        if status_of(one.run.folder(plan.place), one.run.need.task, one.evaluated) != DONE
    )
    said = [
        f"{len(plan.runs)} trainings ({', '.join(f'{count} {state}' for state, count in states.items())}), "
        f"{sum(steps):,} steps. Memory is a rough guess, with rows of the full length."
    ]
    if seconds:
        said.append(
            f"What isn't done trains for about {seconds / 3600:.1f} hours of one core, and is then evaluated for about "
            "as long."
        )
    waiting = sum(len(plan.preset.seeds) for _ in plan.waiting)
    if waiting:
        said.append(f"{waiting} more follow at the rates that the sweeps choose.")
    return said


def _missing(plan: Plan) -> list[str]:
    said = [
        f"{need.method} on {need.task} diverged at every rate: add lower ones to the preset's rates."
        for need in plan.diverged
    ]
    for what, items in plan.left_out.items():
        said.append(f"The preset leaves out {what}: gaps in {', '.join(items)}.")
    counts: Counter[str] = Counter()
    for one in plan.runs.values():
        counts.update(f"Missing, {_cost(lack.stops)}: {lack.what}" for lack in lacks(plan.preset, plan.place, one.run))
    return said + [f"{what} [{count} trainings]" for what, count in counts.items()]


def _cost(stops: bool) -> str:
    return "so that these are left out" if stops else "to be fetched"
