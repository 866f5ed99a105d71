"""Prompts, targets and answers of the generation tasks, and the reading of their files."""

import json
import os
from pathlib import Path

import pytest

from reslora_sd.text.answers import letter_in, number_in, same_number
from reslora_sd.text.read import keep_apart
from reslora_sd.text.tasks import GENERATION_TASKS, read_test, read_train, task_named
from tests.texts import write_svamp

GSM8K = {
    "question": "Tim has 2 bags.  Each holds 500 beans.",
    "answer": "He has 2*500=<<2*500=1000>>1000 beans. Half is 1000/2=<<1000/2=500>>500.\n#### 1,000",
}
MATHQA = {
    "Problem": "what is 1 + 1 ?",
    "Rationale": '"1 + 1 = 2 answer b"',
    "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5",
    "correct": "b",
}
HELLASWAG = {
    "activity_label": "Baking",
    "ctx": "A man [title] bakes. he",
    "endings": ["eats.", "flies. [step] Up.", "sleeps.", "swims."],
    "label": "2",
}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 5", 5),
        (" (9 - 4) = 5", 5),
        ("5 - 3 = 2", 2),
        ("5-3", 3),
        ("it is -3", -3),
        ("#### 1,234.5", 1234.5),
        ("$1,000,000", 1e6),
        ("The answer is: 12. But 13", 12),
        ("#### 7\n\n8 more", 7),
        ("1/2", 0.5),
        ("4/0", None),
        ("none", None),
        ("", None),
        ("3.", 3),
        ("\u22124", -4),
        ("room 12b costs 80%", 80),
        ("x = - 7.50 dollars", -7.5),
    ],
)
def test_the_final_number_of_an_answer(text, number):
    assert number_in(text) == number


def test_numbers_are_compared_as_numbers():
    assert same_number("5.00", 5) and same_number("$5", 5.0) and same_number("1,000", 1000)
    assert not same_number("50", 5) and not same_number("no idea", 5) and not same_number("4.99", 5)


@pytest.mark.parametrize(
    ("text", "letter"), [(" B", "b"), ("... it's a cat\n#### c", "c"), ("answer: d)", "d"), ("none", None), ("", None)]
)
def test_the_letter_of_an_answer(text, letter):
    assert letter_in(text, "abcd") == letter


def test_calculator_marks_go_and_the_text_between_them_stays():
    target = task_named("gsm8k").target(GSM8K)
    assert target == " He has 2*500=1000 beans. Half is 1000/2=500.\n#### 1,000"
    assert task_named("gsm8k").prompt(GSM8K) == "Question: Tim has 2 bags. Each holds 500 beans.\nAnswer:"


def test_svamp_joins_body_and_question_with_a_stop_and_a_space():
    row = {"Body": "He has 3 pens", "Question": "How many?", "Equation": "( 76.0 - 25.5 )", "Answer": "50.5"}
    assert task_named("svamp").prompt(row) == "Question: He has 3 pens. How many?\nAnswer:"
    assert task_named("svamp").target(row) == " (76 - 25.5) = 50.5"


def test_mathqa_and_hellaswag_are_chosen_by_letter():
    mathqa, hellaswag = task_named("mathqa"), task_named("hellaswag")
    assert mathqa.target(MATHQA) == " 1 + 1 = 2 answer b\n#### b"
    assert mathqa.is_correct("so\n#### b", MATHQA) and not mathqa.is_correct("#### a", MATHQA)
    assert hellaswag.target(HELLASWAG) == " C" and "[" not in hellaswag.prompt(HELLASWAG)
    assert hellaswag.is_correct(" C", HELLASWAG) and not hellaswag.is_correct(" a", HELLASWAG)


def test_metamathqa_is_tested_on_gsm8k(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(GSM8K))
    task = task_named("metamathqa")
    assert read_test(task, str(path), None) == [GSM8K]
    row = {"query": GSM8K["question"], "response": "It is 1000. The answer is: 1000"}
    assert task.prompt(row) == task_named("gsm8k").prompt(GSM8K)
    assert task_named("gsm8k").is_correct(task.target(row), GSM8K)


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


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("gsm8k", "gsm8k/train.jsonl"),
        ("gsm8k", "gsm8k/test.jsonl"),
        ("svamp", "svamp/train.jsonl"),
        ("svamp", "svamp/test.jsonl"),
        ("mathqa", "mathqa/validation.jsonl"),
        ("mathqa", "mathqa/test.jsonl"),
        ("hellaswag", "hellaswag/validation.jsonl"),
        ("hellaswag", "hellaswag/train_from_validation.jsonl"),
    ],
)
def test_every_row_of_the_real_data_counts_as_right_when_answered_with_its_target(task, file):
    data = os.environ.get("RESLORA_SHARED_DATA")
    if not data:
        pytest.skip("the real data sets are not named: set RESLORA_SHARED_DATA to their folder")
    rows = read_train(GENERATION_TASKS[task], str(Path(data) / file), None, 0)  # raises for a row that doesn't
    assert len(rows) >= 200
