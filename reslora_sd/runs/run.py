"""What a run folder holds, as scripts and page read it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .jsonl import is_step
from .names import INDEX_FILE

State = Literal["finished", "being written", "cut off", "no run"]


class PictureKey(NamedTuple):
    """What tells one validation picture from another."""

    prompt: str
    seed: int
    variant: str
    """`base`, `unmerged`, or a merge approach."""
    step: int


@dataclass(frozen=True)
class IndexedPicture:
    """One line of validation/index.jsonl. Its file has not been opened yet."""

    key: PictureKey
    file: str
    """Path inside `validation/`, as the line says; `paths.inside` checks it."""
    sha256: str = ""


@dataclass(frozen=True)
class ReferencePicture:
    """A picture of the data set whose caption is a prompt: one line of validation/real.jsonl."""

    file: str
    seen: str
    """What saw it: `training`, `held out` or `neither`."""


@dataclass(frozen=True)
class Run:
    """What one folder holds."""

    path: Path
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """run.json"""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Rows of log.jsonl by rising step; each number finite or missing."""
    pictures: dict[PictureKey, IndexedPicture] = field(default_factory=dict)
    references: dict[str, ReferencePicture] = field(default_factory=dict)
    """By prompt."""
    report: dict[str, Any] = field(default_factory=dict)
    """merge_report.json; empty while the run goes on."""
    results: dict[str, Any] = field(default_factory=dict)
    """results.json of a text run; empty while the run goes on."""
    state: State = "no run"
    checkpoints: list[int] = field(default_factory=list)
    """Steps that can be drawn from: those of `checkpoint-*`, and the last one of a finished run."""
    loras: list[int] = field(default_factory=list)
    """Steps whose merged LoRA is in `loras/`."""
    notes: list[str] = field(default_factory=list)
    """What is missing or broken."""
    warnings: list[str] = field(default_factory=list)
    """That pictures equal those of an earlier step."""

    @property
    def name(self) -> str:
        """The method's name; the folder's where run.json has none."""
        return self.method or self.path.name

    @property
    def validation(self) -> Path:
        """The folder of its pictures."""
        return (self.path / INDEX_FILE).parent

    @property
    def arguments(self) -> dict[str, Any]:
        """The script's arguments, as run.json has them."""
        arguments = self.settings.get("arguments")
        return arguments if isinstance(arguments, dict) else {}

    @property
    def exported(self) -> str:
        """The merge approach of the exported LoRA; empty without a report."""
        approach = self.report.get("approach")
        return approach if isinstance(approach, str) else ""

    @functools.cached_property
    def variants(self) -> frozenset[str]:
        """What its pictures were drawn with: `base`, `unmerged`, merge approaches."""
        return frozenset(key.variant for key in self.pictures)

    @functools.cached_property
    def files(self) -> frozenset[str]:
        """Paths inside `validation/` of all pictures that its indexes name."""
        drawn = {one.file for one in self.pictures.values()}
        return frozenset(drawn | {one.file for one in self.references.values()})

    @property
    def last_step(self) -> int:
        """The last step of the log; 0 without one."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def steps(self) -> int | None:
        """How many steps the run is to have, where its files say so."""
        return planned_steps(self.settings, self.results)

    def prompts(self) -> list[str]:
        """Prompts in the order of the index."""
        return list(dict.fromkeys(key.prompt for key in self.pictures))

    def final(self, step: int) -> bool:
        """Whether the files of the finished run, and no checkpoint, hold this step."""
        return self.state == "finished" and step == self.last_step


def is_text(settings: dict[str, Any]) -> bool:
    """Whether run.json is of a text script: these alone have a task, and are over with results.json."""
    arguments = settings.get("arguments")
    return isinstance(arguments, dict) and "task" in arguments


def planned_steps(settings: dict[str, Any], results: dict[str, Any]) -> int | None:
    """Steps by run.json's own word, by the flag of the script that wrote it, or by what a text run has done.

    Text runs that count by epochs have a `max_steps` of -1.
    """
    arguments = settings.get("arguments")
    flags = arguments if isinstance(arguments, dict) else {}
    said = (settings.get("steps"), flags.get("max_train_steps"), flags.get("max_steps"), results.get("steps"))
    return next((steps for steps in said if is_step(steps) and steps), None)
