"""Prompts, targets and answers of the generation tasks, and the reading of their files."""

import json
import os
from pathlib import Path

import pytest

from reslora_sd.text.answers import cut
from reslora_sd.text.tasks import GENERATION_TASKS, read_test, read_train, task_named

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


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ("gsm8k", " So 5.\n#### 5\nQuestion: Tim\n#### 3", " So 5.\n#### 5"),
        ("gsm8k", " So it is 5\n\nQuestion: Tim has 3", " So it is 5"),
        ("gsm8k", " So 5.\n####\n5\nmore", " So 5.\n####\n5"),
        ("svamp", " (8 - 3) = 5\nQuestion: = 7", " (8 - 3) = 5"),
        ("svamp", " Let's see:\n(8 - 3) = 5", " Let's see:\n(8 - 3) = 5"),
        ("mathqa", " answer b\n#### b\nQuestion: x", " answer b\n#### b"),
        ("metamathqa", " It is 5.\n#### 5\nThe answer is: 5", " It is 5.\n#### 5"),
        ("hellaswag", "\n C\n D", "\n C"),
    ],
)
def test_an_answer_ends_where_its_task_says(task, text, answer):
    assert cut(text, task_named(task).stop) == answer


def test_no_target_is_cut_before_its_solution():
    mathqa, gsm8k = task_named("mathqa"), task_named("gsm8k")
    assert cut(mathqa.target(MATHQA), mathqa.stop) == mathqa.target(MATHQA)
    assert cut(gsm8k.target(GSM8K), gsm8k.stop) == gsm8k.target(GSM8K)


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
    named = GENERATION_TASKS[task]
    assert all(named.is_correct(cut(named.target(row), named.stop), row) for row in rows)


@pytest.mark.parametrize(
    ("task", "answer", "readable"),
    [
        ("svamp", " (9 - 2) = 7", True),
        ("gsm8k", " I don't know", False),
        ("mathqa", " #### b", True),
        ("mathqa", " a number of them", False),
        ("hellaswag", " C", True),
        ("hellaswag", " He walks away", False),
    ],
)
def test_an_answer_without_number_or_option_is_unreadable(task, answer, readable):
    assert task_named(task).is_readable(answer) is readable
