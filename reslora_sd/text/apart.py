"""Which rows of a task choose settings, and which are reported on. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import glue, tasks
from .read import Row, keep_apart


@dataclass(frozen=True)
class RowsApart:
    """Rows that two jobs are done with."""

    kept: int
    """Training rows kept apart, of each seed: they choose."""
    tests: int
    """Rows that are reported on."""
    shared: int
    """Test rows that have the text of one that chooses."""


def rows_apart(
    task: str,
    train_file: str | None,
    test_files: Sequence[str | None],
    validation_samples: int,
    seeds: Sequence[int],
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
) -> RowsApart:
    """Reads the rows as the training scripts do.

    Args:
        test_files: one for each of the task's test sets.
        seeds: of the runs that choose.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, or nothing would be left to train on; or what would
            choose is what would be reported on.
    """
    kept: set[Any] = set()
    for seed in seeds:
        rows = _train(task, train_file, max_train_samples, seed)
        kept |= {_text(task, row) for row in keep_apart(rows, validation_samples)[1]}
    tests = _tests(task, test_files, max_eval_samples)
    shared = [text for text in tests if text in kept]
    if kept and kept <= set(shared):
        raise ValueError(
            f"All {len(kept)} training rows that would choose the learning rates are test rows, too. Give a "
            "--test_file whose rows aren't in --train_file."
        )
    return RowsApart(validation_samples, len(tests), len(shared))


def _train(task: str, file: str | None, limit: int | None, seed: int) -> list[Row]:
    if task in tasks.GENERATION_TASKS:
        return tasks.read_train(tasks.task_named(task), file, limit, seed)
    return glue.read_train(glue.glue_task(task), file, limit, seed)


def _tests(task: str, files: Sequence[str | None], limit: int | None) -> list[Any]:
    """Texts of the test rows."""
    if task in tasks.GENERATION_TASKS:
        named = tasks.task_named(task)
        return [_text(tasks.test_task(named).name, row) for row in tasks.read_test(named, files[0], limit)]
    found = glue.read_tests(glue.glue_task(task), files, limit)
    return [_text(task, row) for rows in found.values() for row in rows]


def _text(task: str, row: Mapping[str, Any]) -> Any:
    """What the model reads of a row."""
    if task in tasks.GENERATION_TASKS:
        return tasks.task_named(task).prompt(row)
    return tuple(str(row[column]) for column in glue.glue_task(task).texts)
