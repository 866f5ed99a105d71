"""answers.jsonl: what each form of the model answered to each test row, beside the right answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.atomic import replacing
from ..runs.names import ANSWERS_FILE
from .glue import ClassificationTask
from .tasks import GenerationTask

logger = logging.getLogger("reslora_sd")

MOST_BYTES = 32_000_000
"""Of the file: what comes after the rows that fit is left out."""


def write_answers(
    folder: Path,
    task: GenerationTask,
    rows: Sequence[Mapping[str, Any]],
    texts: Mapping[str, Sequence[str | None]],
) -> None:
    """What each variant said to each test row; one whose prompt was too long, nothing, which counts as wrong."""

    def entries() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            said = {name: answers[number] for name, answers in texts.items()}
            right = {name: text is not None and bool(task.is_correct(text, row)) for name, text in said.items()}
            entry = {"row": dict(row), "prompt": task.prompt(row), "target": task.target(row).strip()}
            yield {**entry, "answers": said, "right": right}

    _write(folder, entries())


def write_classes(
    folder: Path,
    task: ClassificationTask,
    sets: Mapping[str, Sequence[Mapping[str, Any]]],
    given: Mapping[str, Mapping[str, Sequence[float]]],
) -> None:
    """What each variant said to each row of each test set: the class's name, or a score, which is neither right nor
    wrong.

    Args:
        given: by set and variant: `predictions` of `measure_classes`.
    """

    def entries() -> Iterator[dict[str, Any]]:
        for name, rows in sets.items():
            for number, row in enumerate(rows):
                values = {variant: found[number] for variant, found in given[name].items()}
                said = {variant: _class(task, value) for variant, value in values.items()}
                prompt = "\n".join(f"{column}: {row[column]}" for column in task.texts)
                entry = {"row": dict(row), "prompt": prompt, "target": _class(task, row["label"]), "answers": said}
                if not task.is_regression:
                    entry["right"] = {variant: int(value) == int(row["label"]) for variant, value in values.items()}
                yield {**entry, **({"set": name} if name else {})}

    _write(folder, entries())


def _class(task: ClassificationTask, value: float) -> str:
    return f"{value:.4g}" if task.is_regression else task.classes[int(value)][0]


def _write(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    size = left_out = 0
    with replacing(folder / ANSWERS_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        for entry in entries:
            line = json.dumps(entry, default=str) + "\n"
            size += len(line)
            if size > MOST_BYTES:
                left_out += 1
            else:
                file.write(line)
    if left_out:
        most = f"{MOST_BYTES / 1e6:.0f} MB"
        logger.warning("%s would have over %s: the answers to %d rows are left out.", ANSWERS_FILE, most, left_out)
