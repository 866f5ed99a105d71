"""GLUE's tasks: metrics, labels, rows as tokens."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from reslora_sd.text.glue import GLUE_TASKS, encode_pairs, glue_task, read_tests, read_train
from tests.texts import byte_tokenizer, write_glue

PAPER = {
    "cola": "matthews",
    "sst2": "accuracy",
    "mrpc": "f1",
    "stsb": "pearson",
    "qqp": "accuracy",
    "mnli": "accuracy",
    "qnli": "accuracy",
    "rte": "accuracy",
    "wnli": "accuracy",
}


def test_there_are_nine_tasks_with_the_papers_metrics_first():
    assert GLUE_TASKS.keys() == PAPER.keys()
    for name, metric in PAPER.items():
        figures = glue_task(name).metrics(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))
        assert next(iter(figures)) == metric


def test_metrics_by_hand():
    predictions, labels = np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0])
    assert glue_task("mrpc").metrics(predictions, labels) == pytest.approx({"f1": 0.8, "accuracy": 0.75})
    # (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)) = 2 / sqrt(3 * 2 * 2 * 1)
    assert glue_task("cola").metrics(predictions, labels)["matthews"] == pytest.approx(2 / 12**0.5)
    scores = glue_task("stsb").metrics(np.array([1.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    assert scores["spearman"] == pytest.approx(1.0) and scores["pearson"] < 1


def test_a_classifier_that_says_one_class_has_no_correlation_but_a_figure():
    assert glue_task("cola").metrics(np.ones(4), np.array([0, 1, 1, 0]))["matthews"] == 0


@pytest.mark.parametrize(("task", "label"), [("rte", 2), ("rte", "1"), ("mnli", -1), ("stsb", "high"), ("stsb", True)])
def test_a_label_that_cannot_be_one_is_told_with_its_row(tmp_path, task, label):
    path = write_glue(tmp_path / "rows.jsonl", task, 2)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    path.write_text(json.dumps(first) + "\n" + json.dumps({**second, "label": label}) + "\n")
    with pytest.raises(ValueError, match="row 2: the label is"):
        read_train(glue_task(task), str(path), None, 0)


def test_mnli_has_two_test_sets_and_others_one(tmp_path):
    files = [str(write_glue(tmp_path / f"{name}.jsonl", "mnli", 4)) for name in ("matched", "mismatched")]
    assert list(read_tests(glue_task("mnli"), files, 3)) == ["matched", "mismatched"]
    assert list(read_tests(glue_task("mnli"), (None, files[1]), 3)) == ["mismatched"]
    assert {len(rows) for rows in read_tests(glue_task("mnli"), files, 3).values()} == {3}
    rte = str(write_glue(tmp_path / "rte.jsonl", "rte", 4))
    assert list(read_tests(glue_task("rte"), (rte, None), None)) == [""]


def test_rows_over_the_limit_are_cut_and_counted(tmp_path):
    rows = read_train(glue_task("rte"), str(write_glue(tmp_path / "rows.jsonl", "rte", 12)), None, 0)
    tokenizer = byte_tokenizer()
    whole, none = encode_pairs(rows, glue_task("rte"), tokenizer, 512)
    lengths = [len(one["input_ids"]) for one in whole]
    limit = min(lengths)
    some, cut = encode_pairs(rows, glue_task("rte"), tokenizer, limit)
    assert none == 0 and cut == sum(length > limit for length in lengths) > 0
    assert {len(one["input_ids"]) for one in some} == {limit}
    assert [one["labels"] for one in some] == [row["label"] for row in rows]


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_the_real_data_is_read(task):
    data = os.environ.get("RESLORA_SHARED_DATA")
    if not data:
        pytest.skip("the real data sets are not named: set RESLORA_SHARED_DATA to their folder")
    assert len(read_train(glue_task(task), str(Path(data) / "glue" / task / "train.jsonl"), None, 0)) >= 600
