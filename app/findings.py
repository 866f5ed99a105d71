"""What is wrong or missing in a run that could be read, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from .files import Notes
from .run import UNMERGED, Key, Picture, Run


def repeated(pictures: Mapping[Key, Picture]) -> list[str]:
    """Warnings, one a kind, of pictures whose sha256 is that of the same prompt and seed at an earlier step."""
    first: dict[tuple[str, int, str, str], int] = {}
    count, total = Counter[str](), Counter[str]()
    example: dict[str, str] = {}
    for key in sorted(pictures, key=lambda key: key.step):
        digest = pictures[key].sha256
        if not digest:
            continue
        total[key.kind] += 1
        earlier = first.setdefault((key.prompt, key.seed, key.kind, digest), key.step)
        if earlier != key.step:
            count[key.kind] += 1
            example.setdefault(key.kind, f'"{key.prompt}", seed {key.seed}: step {key.step} is step {earlier}')
    return [
        f"{number} of {total[kind]} {kind} pictures repeat an earlier step byte for byte ({example[kind]}). "
        "The adapter is not active, or it does not learn."
        for kind, number in count.items()
    ]


def note_gaps(run: Run, notes: Notes) -> None:
    """Notes steps and pictures that a whole run would have."""
    if run.state == "no run":
        notes.texts.insert(0, f"{run.path} holds no run: neither run.json nor a log nor pictures.")
        return
    if run.settings and not run.method:
        notes.add("run.json names no method.")
    known = [row["step"] for row in run.log]
    missing = known[-1] - known[0] + 1 - len(known) if known else 0
    if missing:
        first = next(step + 1 for step, after in pairwise(known) if after > step + 1)
        notes.add(f"log.jsonl lacks {missing} steps between its first and last, such as step {first}.")
    if run.state == "finished" and known and run.steps and known[-1] < run.steps:
        notes.add(f"log.jsonl ends at step {known[-1]}, and the run has {run.steps}.")
    if run.state == "cut off":
        notes.add(f"The run was cut off after step {run.last_step} of {run.steps or 'an unknown number'}.")
    drawn = {(key.prompt, key.seed) for key in run.pictures if key.kind == UNMERGED}
    by_step = Counter(key.step for key in run.pictures if key.kind == UNMERGED)
    short = sorted(step for step, count in by_step.items() if count < len(drawn))
    if short:
        notes.add(f"{len(short)} steps lack some of their {len(drawn)} pictures: {_first(short)}.")


def _first(numbers: Sequence[int], most: int = 5) -> str:
    return ", ".join(map(str, numbers[:most])) + (" ..." if len(numbers) > most else "")
