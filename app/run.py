"""What a run folder holds, as the page uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

UNMERGED = "unmerged"
"""What index.jsonl calls pictures of the model with its paths."""


class Key(NamedTuple):
    """What tells one validation picture from another."""

    prompt: str
    seed: int
    kind: str
    """`base`, `unmerged`, or a merge approach."""
    step: int


@dataclass(frozen=True)
class Picture:
    """One line of validation/index.jsonl. Its file has not been opened yet."""

    key: Key
    file: str
    """Path inside `validation/`, as the line says; `files.inside` checks it."""
    sha256: str = ""


@dataclass(frozen=True)
class Real:
    """A picture of the data set whose caption is a prompt."""

    file: str
    seen: str
    """What saw it: `training`, `held out` or `neither`."""


@dataclass
class Run:
    """What one folder holds."""

    path: Path
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """run.json"""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Rows of log.jsonl by rising step; each number finite or missing."""
    pictures: dict[Key, Picture] = field(default_factory=dict)
    real: dict[str, Real] = field(default_factory=dict)
    """By prompt."""
    report: dict[str, Any] = field(default_factory=dict)
    """merge_report.json"""
    checkpoints: list[int] = field(default_factory=list)
    """Steps that can be drawn from: those of `checkpoint-*`, and the last one of a finished run."""
    notes: list[str] = field(default_factory=list)
    """What is missing or broken."""
    repeated: list[str] = field(default_factory=list)
    """Warnings of pictures that equal those of an earlier step."""
    state: str = "no run"
    """`finished`, `being written`, `cut off` or `no run`."""

    @property
    def exported(self) -> str:
        """The merge approach of the exported LoRA; empty without a report."""
        approach = self.report.get("approach")
        return approach if isinstance(approach, str) else ""

    @property
    def last_step(self) -> int:
        """The last step of the log; 0 without one."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def steps(self) -> int | None:
        """How many steps the run is to have, where run.json says so."""
        steps = self.settings.get("steps")
        if not is_step(steps):
            arguments = self.settings.get("arguments")
            steps = arguments.get("max_train_steps") if isinstance(arguments, dict) else None
        return steps if is_step(steps) else None

    def prompts(self) -> list[str]:
        """Prompts in the order of the index."""
        return list(dict.fromkeys(key.prompt for key in self.pictures))

    def final(self, step: int) -> bool:
        """Whether the files of the finished run, and no checkpoint, hold this step."""
        return self.state == "finished" and step == self.last_step


def is_step(value: object) -> bool:
    """A whole number from 0 to a thousand million: more is damage."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9


def is_number(value: object) -> bool:
    """A number that can be plotted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
