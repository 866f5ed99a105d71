"""What a run's folder says: whether it is there, its loss of the kept rows, its figures. No torch.

Whatever a kill or an editor left in a file, a figure is a number here or not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runs.checkpoints import list_checkpoints
from ..runs.jsonl import is_number, read_object, read_rows
from ..runs.names import LOG_FILE, REPORT_FILE, RESULTS_FILE
from ..runs.sweep import DIVERGED_FILE
from .items import PICTURES

DONE, TRAINED, BEGUN, DIVERGED, MISSING = "done", "to be evaluated", "begun", "diverged", "missing"


def _quiet(_note: str) -> None:
    """A file that can't be read is one that isn't there: the run is then made again, and a cell stays a gap."""


def results_of(folder: Path) -> dict[str, Any]:
    """results.json, or nothing."""
    return read_object(folder / RESULTS_FILE, _quiet)


def is_done(folder: Path, task: str, evaluated: bool) -> bool:
    """Whether a run has what is asked of it."""
    if task == PICTURES:
        return bool(read_object(folder / REPORT_FILE, _quiet))
    found = results_of(folder).get("results")
    return isinstance(found, dict) and (bool(found) or not evaluated)


def status_of(folder: Path, task: str, evaluated: bool) -> str:
    """In words, for the plan."""
    if is_done(folder, task, evaluated):
        return DONE
    if (folder / DIVERGED_FILE).is_file():
        return DIVERGED
    if task != PICTURES and is_done(folder, task, False):
        return TRAINED
    return BEGUN if list_checkpoints(folder) else MISSING


def kept_loss(folder: Path, task: str) -> float | None:
    """The loss of the rows kept apart; infinite for a run that diverged, `None` where there is none."""
    if not is_done(folder, task, False):
        return math.inf if (folder / DIVERGED_FILE).is_file() else None
    if task == PICTURES:
        report = read_object(folder / REPORT_FILE, _quiet).get("validation")
        loss = report.get("loss") if isinstance(report, dict) else None
    else:
        loss = results_of(folder).get("validation_loss")
    return float(loss) if loss is not None and is_number(loss) else None


def form_of(folder: Path, form: str) -> Mapping[str, Any]:
    """The figures of one form of the trained model."""
    forms = results_of(folder).get("results")
    found = forms.get(form) if isinstance(forms, dict) else None
    return found if isinstance(found, dict) else {}


def metric_in(figures: Mapping[str, Any], metric: str) -> float | None:
    """A metric; of several test sets, as MNLI has, their mean."""
    found = [
        float(value)
        for name, value in figures.items()
        if (name == metric or name.startswith(f"{metric} (")) and is_number(value)
    ]
    return sum(found) / len(found) if found else None


def number(found: Mapping[str, Any], name: str) -> float | None:
    """A field that is a number."""
    value = found.get(name)
    return float(value) if value is not None and is_number(value) else None


def by_epoch(folder: Path, metric: str = "accuracy") -> list[tuple[int, float, float]]:
    """Epoch, metric and share of unreadable answers, as they were measured while training."""
    rows = results_of(folder).get("by_epoch")
    found = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            epoch, value = number(row, "epoch"), metric_in(row, metric)
            if epoch is not None and value is not None:
                found.append((int(epoch), value, number(row, "unreadable") or 0.0))
    return sorted(found)


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of the log."""
    found = []
    for _, row in read_rows(folder / LOG_FILE, _quiet):
        step, loss = number(row, "step"), number(row, "loss")
        if step is not None and loss is not None:
            found.append((int(step), loss))
    return found


def norms(folder: Path) -> dict[str, float]:
    """||delta W|| of every block of the merged LoRA that the run exports."""
    blocks = read_object(folder / REPORT_FILE, _quiet).get("blocks")
    if not isinstance(blocks, dict):
        return {}
    found = {name: number(block, "norm") for name, block in blocks.items() if isinstance(block, dict)}
    return {name: norm for name, norm in found.items() if norm is not None}
