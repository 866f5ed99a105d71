"""The nine tasks of GLUE: columns, labels, metrics (paper, section 4.3 and appendix C), rows as tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .hub import GLUE
from .labels import class_order
from .read import Row, choose, read_hub, read_json_lines

HUB_NAME = GLUE.name
Metrics = Callable[[Any, Any], dict[str, float]]
"""(predictions, labels) -> figures by name, the paper's first."""


def _accuracy(predictions: Any, labels: Any) -> dict[str, float]:
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(labels, predictions))}


def _f1(predictions: Any, labels: Any) -> dict[str, float]:
    from sklearn.metrics import f1_score

    return {"f1": float(f1_score(labels, predictions, zero_division=0.0)), **_accuracy(predictions, labels)}


def _matthews(predictions: Any, labels: Any) -> dict[str, float]:
    from sklearn.metrics import matthews_corrcoef

    return {"matthews": float(matthews_corrcoef(labels, predictions)), **_accuracy(predictions, labels)}


def _correlation(predictions: Any, labels: Any) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    return {
        "pearson": float(pearsonr(predictions, labels).statistic),
        "spearman": float(spearmanr(predictions, labels).statistic),
    }


@dataclass(frozen=True)
class ClassificationTask:
    """A task whose answers a sequence classifier chooses."""

    name: str
    texts: tuple[str, ...]
    """Columns of one text, or of two."""
    classes: tuple[tuple[str, ...], ...] = ()
    """In the order of the data's labels: names as the Hub's data set has them, and others that models use. None for a
    score."""
    metrics: Metrics = _accuracy
    test_splits: tuple[str, ...] = ("validation",)
    """On the Hub; the published test sets have no labels."""

    @property
    def labels(self) -> int:
        """How many classes; 1 for a score."""
        return len(self.classes) or 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every row must have."""
        return (*self.texts, "label")

    @property
    def is_regression(self) -> bool:
        """Whether the label is a score."""
        return not self.classes


_PARAPHRASE = ("paraphrase", "is_paraphrase")
_NO_PARAPHRASE = ("not_paraphrase", "no_paraphrase")
_ENTAILED, _NOT_ENTAILED = ("entailment",), ("not_entailment",)

GLUE_TASKS = {
    task.name: task
    for task in (
        ClassificationTask("cola", ("sentence",), (("unacceptable",), ("acceptable",)), _matthews),
        ClassificationTask("sst2", ("sentence",), (("negative",), ("positive",))),
        ClassificationTask(
            "mrpc",
            ("sentence1", "sentence2"),
            (("not_equivalent", *_NO_PARAPHRASE), ("equivalent", *_PARAPHRASE)),
            _f1,
        ),
        ClassificationTask("stsb", ("sentence1", "sentence2"), metrics=_correlation),
        ClassificationTask(
            "qqp",
            ("question1", "question2"),
            (("not_duplicate", *_NO_PARAPHRASE), ("duplicate", *_PARAPHRASE)),
        ),
        ClassificationTask(
            "mnli",
            ("premise", "hypothesis"),
            (_ENTAILED, ("neutral",), ("contradiction",)),
            test_splits=("validation_matched", "validation_mismatched"),
        ),
        ClassificationTask("qnli", ("question", "sentence"), (_ENTAILED, _NOT_ENTAILED)),
        ClassificationTask("rte", ("sentence1", "sentence2"), (_ENTAILED, _NOT_ENTAILED)),
        ClassificationTask("wnli", ("sentence1", "sentence2"), (_NOT_ENTAILED, _ENTAILED)),
    )
}


def glue_task(name: str) -> ClassificationTask:
    """The task.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in GLUE_TASKS:
        raise ValueError(f"--task is {name!r}. It must be one of {', '.join(GLUE_TASKS)}.")
    return GLUE_TASKS[name]


def read_train(task: ClassificationTask, file: str | None, limit: int | None, seed: int) -> list[Row]:
    """Training rows of a file, or of the Hub: all, or `limit` of them at random.

    Raises:
        FileNotFoundError, ValueError: as `read_json_lines`, `read_hub`, and for a label that can't be one.
    """
    rows = read_json_lines(file, task.columns) if file else read_hub(HUB_NAME, task.name, "train", task.columns)
    return choose(_checked(task, rows, file or f"{HUB_NAME} ({task.name}, train)"), limit, seed)


def read_tests(task: ClassificationTask, files: Sequence[str | None], limit: int | None) -> dict[str, list[Row]]:
    """Test rows by the name of their set: of the files that are given, or of the Hub.

    Args:
        files: one for each of the task's sets, `None` where there is none.

    Raises:
        FileNotFoundError, ValueError: as `read_train`.
    """
    found = {}
    given = any(files)
    for split, file in zip(task.test_splits, files, strict=False):
        name = split.removeprefix("validation").removeprefix("_")
        if file:
            found[name] = _checked(task, read_json_lines(file, task.columns, limit), file)
        elif not given:
            rows = read_hub(HUB_NAME, task.name, split, task.columns, limit)
            found[name] = _checked(task, rows, f"{HUB_NAME} ({task.name}, {split})")
    return found


def _checked(task: ClassificationTask, rows: list[Row], place: str) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        label = row["label"]
        known = not isinstance(label, bool) and (
            isinstance(label, int | float) if task.is_regression else label in range(task.labels)
        )
        if not known:
            wanted = "a number" if task.is_regression else f"one of 0 to {task.labels - 1}"
            raise ValueError(f"{place}, row {number}: the label is {label!r}. For {task.name} it must be {wanted}.")
    return rows


def class_outputs(task: ClassificationTask, config: Any) -> tuple[int, ...]:
    """The output of the model for each class of the task, by the names of its config.

    Raises:
        ValueError: its names are not the task's.
    """
    if task.is_regression:
        return (0,)
    order = class_order(task.classes, config.id2label)
    if order is None:
        raise ValueError(f"The model's classes are {config.id2label}, which are not those of {task.name}.")
    return order


def encode_pairs(
    rows: Sequence[Mapping[str, Any]],
    task: ClassificationTask,
    tokenizer: Any,
    max_length: int,
    outputs: Sequence[int] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Rows as tokens and labels, and how many were cut to `max_length` tokens (the longer text first).

    Args:
        outputs: from `class_outputs`: labels are given as the model's; left out, as the task's.
    """
    examples, cut = [], 0
    for row in rows:
        texts = [str(row[column]) for column in task.texts]
        cut += len(tokenizer(*texts)["input_ids"]) > max_length
        example = dict(tokenizer(*texts, truncation=True, max_length=max_length))
        label = float(row["label"]) if task.is_regression else int(row["label"])
        examples.append({**example, "labels": label if outputs is None or task.is_regression else outputs[int(label)]})
    return examples, cut
