"""Trains every method at every rate with every seed, each run into a file; what is there isn't trained again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..runs.atomic import write_json
from ..runs.jsonl import read_object
from .problem import Kind, Problem, Shares, clip, explained_now, freeze, hash_of

SETTINGS_FILE = "settings.json"
Run = dict[str, Any]
"""One training: method, rate, seed, losses, held-out losses by step, shares."""


@dataclass(frozen=True)
class Plan:
    """What is trained."""

    kinds: Sequence[Kind]
    rates: Sequence[float]
    seeds: Sequence[int]
    steps: int
    held_every: int

    def runs(self) -> Iterator[tuple[Kind, float, int]]:
        """Seed by seed, so that a sweep that is stopped has whole seeds."""
        for seed in self.seeds:
            for rate in self.rates:
                for kind in self.kinds:
                    yield kind, rate, seed


def folder_of(problem: Problem, out: Path, steps: int) -> Path:
    """Where the runs of these weights and this length are."""
    return out / f"{problem.name}-{hash_of(problem.model)}-{steps}"


def train(problem: Problem, kind: Kind, rate: float, seed: int, plan: Plan) -> Run:
    """One run, as the training scripts would: AdamW at a constant rate, gradients clipped."""
    adapter = problem.adapt(kind, seed)
    try:
        before = freeze(problem, adapter, seed) if adapter.config.residual == "frozen" else {}
        optimizer = torch.optim.AdamW(list(adapter.parameters()), lr=rate)
        problem.model.train()
        losses: list[float | None] = []
        held: dict[str, float | None] = {}
        started = time.perf_counter()
        for step in range(plan.steps):
            loss = problem.loss(seed, step)
            losses.append(number(loss.item()))
            if losses[-1] is None:
                break
            loss.backward()  # type: ignore[no-untyped-call]
            clip(adapter, problem.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % plan.held_every == 0 or step + 1 == plan.steps:
                held[str(step + 1)] = number(problem.held_out())
        seconds = time.perf_counter() - started
        after: Shares = {}
        if kind.method == "reslora_is" and seed == plan.seeds[0] and len(losses) == plan.steps:
            after = explained_now(problem, adapter, seed)
    finally:
        adapter.remove()
        problem.model.eval()
    return {
        "kind": str(kind),
        "learning_rate": rate,
        "seed": seed,
        "losses": losses,
        "held_out": held,
        "explained": before,
        "explained_after": after,
        "seconds": round(seconds, 1),
    }


def number(value: float) -> float | None:
    """The value, `None` where a run fell apart: JSON has no other word for it."""
    return value if math.isfinite(value) else None


def check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """Keeps the settings that a folder's runs share, and compares them with those of its earlier runs.

    Raises:
        ValueError: they are others.
    """
    file = folder / SETTINGS_FILE
    before = read_object(file, lambda _: None) if file.exists() else dict(asked)
    changed = sorted(name for name in {*before, *asked} if before.get(name) != asked.get(name))
    if changed:
        name = changed[0]
        raise ValueError(
            f"The runs in {folder} have {name} {before.get(name)!r}, and {asked.get(name)!r} is asked. "
            "Give the same, or another --out."
        )
    write_json(file, dict(asked))


def sweep(problem: Problem, plan: Plan, out: Path, tell: Callable[[str], None]) -> Path:
    """Trains what is missing; gives the folder of the runs."""
    folder = folder_of(problem, out, plan.steps)
    folder.mkdir(parents=True, exist_ok=True)
    check_asked(folder, {"held_every": plan.held_every, **problem.asked})
    for kind, rate, seed in plan.runs():
        file = folder / f"{str(kind).replace(':', '-')}_{rate:g}_{seed}.json"
        if file.exists():
            continue
        run = train(problem, kind, rate, seed, plan)
        write_json(file, run)
        tell(f"{kind} {rate:g} seed {seed}: held out {list(run['held_out'].values())}, {run['seconds']} s")
    return folder


def read_runs(folder: Path, warn: Callable[[str], None]) -> list[Run]:
    """The runs of a folder, in the order of their files; damaged ones are told and left out."""
    runs = [read_object(file, warn) for file in sorted(folder.glob("*.json"))]
    return [run for run in runs if isinstance(run.get("losses"), list) and isinstance(run.get("held_out"), dict)]
