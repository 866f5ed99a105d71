"""What text runs tell: figures of every form of the model, figures by epoch, and what each form answered."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslora_sd.runs.jsonl import is_number, is_step, read_rows
from reslora_sd.runs.names import ANSWERS_FILE, BASE, UNMERGED
from reslora_sd.runs.paths import inside
from reslora_sd.runs.run import Run, is_text

from .seeds import Group, Line, bands
from .wording import MERGED, OF_RESULTS

MOST_ROWS = 20_000
"""Of answers.jsonl."""
MOST_BYTES = 200_000_000
"""Of the answers of all runs that are shown together, and that are kept in memory: six of the largest that the scripts
write."""
_MOST_NOTES = 3
_MOST_FORMS, _MOST_FIGURES, _LONGEST = 16, 12, 4000
_ALL, _DIFFER, _WRONG, _RIGHT = "all", "right by some, wrong by others", "wrong by all", "right by all"
KINDS = (_ALL, _DIFFER, _WRONG, _RIGHT)
"""Which questions to show."""


def of_text(runs: Mapping[str, Run]) -> dict[str, Run]:
    """The text runs among them."""
    return {name: run for name, run in runs.items() if is_text(run.settings)}


def results(run: Run) -> dict[str, dict[str, float]]:
    """{form: {figure: value}} of results.json; what is no number is left out."""
    found = run.results.get("results")
    forms = found if isinstance(found, dict) else {}
    kept = [(str(form)[:100], figures) for form, figures in forms.items() if isinstance(figures, dict)]
    return {form: _figures(figures) for form, figures in kept[:_MOST_FORMS]}


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    found = {str(name)[:60]: float(value) for name, value in values.items() if is_number(value)}
    return dict(list(found.items())[:_MOST_FIGURES])


def figures_by_form(groups: Iterable[Group]) -> list[tuple[str, str, dict[str, list[float]]]]:
    """Rows of name, form, and the values of each figure: one for each run of the group that has it."""
    rows = []
    for group in groups:
        tables = [results(run) for run in group.runs]
        for form in dict.fromkeys(form for table in tables for form in table):
            names = dict.fromkeys(name for table in tables for name in table.get(form, {}))
            values = {name: [table[form][name] for table in tables if name in table.get(form, {})] for name in names}
            rows.append((group.name, form, values))
    return rows


def by_epoch(groups: list[Group]) -> dict[str, list[Line]]:
    """{figure: curves} of what was measured after epochs, and of losses of rows kept apart, by step."""
    runs = [run for group in groups for run in group.runs]
    epochs = {run.path: _rows(run, "by_epoch", "epoch") for run in runs}
    apart = {run.path: _rows(run, "evaluations", "step") for run in runs}
    names = list(dict.fromkeys(name for rows in epochs.values() for _, row in rows for name in row))[:_MOST_FIGURES]
    found = {f"{name}, by epoch": bands(groups, _column(epochs, name)) for name in names}
    kept = bands(groups, _column(apart, "loss"))
    return {**found, **({"loss of rows kept apart, by step": kept} if kept else {})}


def _column(rows: Mapping[Path, list[tuple[int, dict[str, float]]]], name: str) -> Callable[[Run], dict[int, float]]:
    return lambda run: {place: row[name] for place, row in rows[run.path] if name in row}


def _rows(run: Run, key: str, axis: str) -> list[tuple[int, dict[str, float]]]:
    found = run.results.get(key)
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    placed = [(row[axis], row) for row in rows[:1000] if is_step(row.get(axis))]
    return [(place, {k: v for k, v in _figures(row).items() if k not in ("epoch", "step")}) for place, row in placed]


@dataclass(frozen=True)
class Answered:
    """One row of the test data, and what the forms of one model said."""

    part: str
    """Which test set, where there are several."""
    prompt: str
    target: str
    answers: Mapping[str, str | None]
    right: Mapping[str, bool]
    """By form; nothing for scores."""


@dataclass
class Question:
    """One row of the test data, and what several runs said to it."""

    part: str
    prompt: str
    target: str
    said: dict[str, Answered] = field(default_factory=dict)
    """By the run's name."""


@dataclass(frozen=True)
class Kept:
    """What answers.jsonl holds."""

    rows: tuple[Answered, ...] = ()
    forms: tuple[str, ...] = ()
    """Of all rows."""
    notes: tuple[str, ...] = ()
    """What is left out of it."""


def size_of_answers(run: Run) -> int | None:
    """Bytes of answers.jsonl; `None` where there is none, or it leads out of the run."""
    found = _file(run)
    return found[2] if found is not None else None


def kept_answers(run: Run) -> Kept:
    """What answers.jsonl holds; nothing where there is none, or it leads out of the run."""
    found = _file(run)
    if found is None:
        return Kept()
    task = run.arguments.get("task")
    return _files.get(*found, task if isinstance(task, str) else "")


def answers(run: Run) -> tuple[Answered, ...]:
    """Its rows."""
    return kept_answers(run).rows


def _file(run: Run) -> tuple[Path, int, int] | None:
    """answers.jsonl, when it was written, and its bytes."""
    try:
        path = inside(run.path, ANSWERS_FILE)
        stat = path.stat()
        return (path, stat.st_mtime_ns, stat.st_size) if path.is_file() else None
    except (OSError, ValueError):
        return None


class _Files:
    """Those that were read last, as many as have `MOST_BYTES` together, and the last one in any case."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int, int, str], Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, mtime_ns: int, size: int, task: str) -> Kept:
        key = (path, mtime_ns, size, task)
        with self._lock:
            found = self._kept.pop(key, None)
        found = _read(path, task) if found is None else found
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > 1 and sum(size for _, _, size, _ in self._kept) > MOST_BYTES:
                self._kept.popitem(last=False)
        return found


_files = _Files()


class _Told:
    """The first sentences about a file, and how many more: a file of any size can be broken in every line."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.more = 0

    def add(self, text: str) -> None:
        if len(self.first) < _MOST_NOTES:
            self.first.append(text)
        else:
            self.more += 1


def _read(path: Path, task: str) -> Kept:
    found: list[Answered] = []
    told = _Told()
    odd = 0
    for _, row in read_rows(path, told.add):
        if len(found) == MOST_ROWS:
            told.first.insert(0, f"{path.name} has more rows than the first {MOST_ROWS}, which are shown.")
            break
        one = _answered(row, task)
        if one is None:
            odd += 1
        else:
            found.append(one)
    if odd:
        told.first.append(f"{odd} rows of {path.name} hold no answers.")
    if told.more:
        told.first.append(f"{told.more} more notes on {path.name} are left out.")
    forms = dict.fromkeys(form for one in found for form in one.answers)
    return Kept(tuple(found), tuple(forms)[:_MOST_FORMS], tuple(told.first))


def _answered(row: Mapping[str, Any], task: str) -> Answered | None:
    said = row.get("answers")
    if not isinstance(said, dict):
        return None
    texts = {str(form)[:100]: _text(text) for form, text in list(said.items())[:_MOST_FORMS]}
    about = row.get("row")
    prompt, target, right = row.get("prompt"), row.get("target"), row.get("right")
    if not (isinstance(prompt, str) and isinstance(target, str)):  # of a run of earlier versions
        prompt, target, right = _by_task(task, about if isinstance(about, dict) else {}, texts)
    marks = right if isinstance(right, dict) else {}
    part = row.get("set")
    return Answered(
        part[:60] if isinstance(part, str) else "",
        prompt[:_LONGEST],
        target[:_LONGEST],
        texts,
        {form: mark for form, mark in marks.items() if form in texts and isinstance(mark, bool)},
    )


def _text(value: object) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) else None


def _by_task(task: str, row: dict[str, Any], texts: Mapping[str, str | None]) -> tuple[str, str, dict[str, bool]]:
    """Prompt, right answer, and who is right, as the task says; the row as it is where that can't be said."""
    from reslora_sd.text.tasks import task_named, test_task

    try:
        as_it_is = json.dumps(row, ensure_ascii=False)
    except RecursionError:
        return "", "", {}
    try:
        known = test_task(task_named(task))
        right = {form: text is not None and bool(known.is_correct(text, row)) for form, text in texts.items()}
        return known.prompt(row), known.target(row).strip(), right
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError):
        return as_it_is, "", {}


def forms(runs: Mapping[str, Run]) -> list[str]:
    """What can be looked at: as trained, as exported, the base model, then each merge."""
    found = dict.fromkeys(form for run in runs.values() for form in kept_answers(run).forms)
    exported = any(f"{OF_RESULTS}{run.exported}" in found for run in runs.values() if run.exported)
    first = [UNMERGED] * (UNMERGED in found) + [MERGED] * exported + [BASE] * (BASE in found)
    return first + [form for form in found if form not in first]


def form_of(run: Run, form: str) -> str:
    """The form that a choice means for one run: its own export, or as it was trained where it has no merge."""
    if form != MERGED:
        return form
    return f"{OF_RESULTS}{run.exported}" if run.exported else UNMERGED


def questions(runs: Mapping[str, Run]) -> list[Question]:
    """The test rows of all runs, each once, in the order of the first run that has it."""
    found: dict[tuple[str, str, str], Question] = {}
    for name, run in runs.items():
        for one in answers(run):
            key = (one.part, one.prompt, one.target)
            found.setdefault(key, Question(*key)).said.setdefault(name, one)
    return list(found.values())


def chosen(runs: Mapping[str, Run], form: str, words: str, kind: str) -> list[Question]:
    """The questions that have all the words somewhere, of one of `KINDS`."""
    asked = words.casefold().split()
    found = []
    for question in questions(runs):
        marks = [one.right.get(form_of(runs[name], form)) for name, one in question.said.items()]
        known = {mark for mark in marks if mark is not None}
        if {_DIFFER: len(known) < 2, _WRONG: known != {False}, _RIGHT: known != {True}}.get(kind, False):
            continue
        said = (one.answers.get(form_of(runs[name], form)) or "" for name, one in question.said.items())
        text = " ".join([question.prompt, question.target, *said]).casefold() if asked else ""
        if all(word in text for word in asked):
            found.append(question)
    return found
