"""Rows of files: limits, rows kept apart, and what is told of broken ones."""

import pytest

from reslora_sd.text.read import keep_apart, read_json_lines
from reslora_sd.text.tasks import read_test, read_train, task_named
from tests.texts import write_svamp


def test_a_limit_draws_training_rows_by_seed_and_takes_the_first_test_rows(tmp_path):
    path, task = write_svamp(tmp_path / "rows.jsonl", 20), task_named("svamp")
    drawn = [read_train(task, str(path), 5, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[2]) == 5
    assert read_test(task, str(path), 2) == read_test(task, str(path), None)[:2]


def test_rows_kept_apart_are_the_same_ones_and_not_among_the_others(tmp_path):
    rows = read_train(task_named("svamp"), str(write_svamp(tmp_path / "rows.jsonl", 20)), None, 0)
    train, apart = keep_apart(rows, 5)
    assert len(train) == 15 and len(apart) == 5 and all(row not in train for row in apart)
    assert keep_apart(rows, 5)[1] == apart and keep_apart(rows, 0) == (rows, [])
    with pytest.raises(ValueError, match="20 training rows"):
        keep_apart(rows, 20)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"Body": 1}'], "line 1 lacks 'Question', 'Equation', 'Answer'"),
        (["", "{broken"], "line 2 is no JSON"),
        (["[1]"], "line 1 holds"),
        ([""], "has no row"),
        (
            ['{"Body": "a", "Question": "b?", "Equation": "1", "Answer": "many"}'],
            "row 1 can't be read.*'many' has no num",
        ),
    ],
)
def test_a_broken_file_is_told_with_the_line(tmp_path, lines, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_train(task_named("svamp"), str(path), None, 0)


def test_a_file_that_is_missing_or_no_text_and_an_unknown_task_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_test(task_named("svamp"), str(tmp_path / "none.jsonl"), None)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no UTF-8"):
        read_test(task_named("svamp"), str(tmp_path / "binary"), None)
    with pytest.raises(ValueError, match=r"'sudoku'.*gsm8k, svamp"):
        task_named("sudoku")


def test_the_mark_that_windows_editors_put_before_a_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1+1?"}\n', encoding="utf-8-sig")
    assert read_json_lines(str(path), ["question"]) == [{"question": "1+1?"}]
