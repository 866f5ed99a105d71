"""The paper's generation tasks (section 4.2, appendix B, C): columns, prompts, targets, and when an answer is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import hub
from .answers import letter_in, number_in, same_number
from .hub import HubData
from .read import Row, choose, read_hub, read_json_lines

Texts = Callable[[Mapping[str, Any]], str]
_LETTERS = "abcde"


@dataclass(frozen=True)
class GenerationTask:
    """A task whose answers a causal LM writes."""

    name: str
    hub: HubData
    columns: tuple[str, ...]
    """Columns that every row must have."""
    prompt: Texts
    """Of a row, what the model reads."""
    target: Texts
    """Of a row, what it is to write."""
    is_correct: Callable[[str, Mapping[str, Any]], bool]
    """Whether an answer to a row is right."""
    is_readable: Callable[[str], bool]
    """Whether an answer holds a number, or an option, at all."""
    max_new_tokens: int
    """An answer is cut after so many tokens."""
    stop: re.Pattern[str]
    """An answer ends where this ends: after its own last line, or where the model asks itself another question."""
    test_split: str = "test"
    tested_on: str | None = None
    """Another task whose test rows are used (MetaMathQA is tested on GSM8K's, appendix C)."""


def task_named(name: str) -> GenerationTask:
    """The task.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in GENERATION_TASKS:
        raise ValueError(f"--task is {name!r}. It must be one of {', '.join(GENERATION_TASKS)}.")
    return GENERATION_TASKS[name]


def test_task(task: GenerationTask) -> GenerationTask:
    """The task whose test rows measure this one."""
    return GENERATION_TASKS[task.tested_on] if task.tested_on else task


def read_train(task: GenerationTask, file: str | None, limit: int | None, seed: int) -> list[Row]:
    """Training rows of a file, or of the Hub: all, or `limit` of them at random.

    Raises:
        FileNotFoundError, ValueError: as `read_json_lines`, `read_hub`, and for rows whose answer can't be read.
    """
    rows = read_json_lines(file, task.columns) if file else _from_hub(task, "train", None)
    return choose(_checked(task, rows, file or task.hub.name), limit, seed)


def read_test(task: GenerationTask, file: str | None, limit: int | None) -> list[Row]:
    """Test rows of a file, or of the Hub: all, or the first `limit`.

    Raises:
        FileNotFoundError, ValueError: as `read_train`.
    """
    task = test_task(task)
    if file:
        return _checked(task, read_json_lines(file, task.columns, limit), file)
    return _checked(task, _from_hub(task, task.test_split, limit), task.hub.name)


def _from_hub(task: GenerationTask, split: str, limit: int | None) -> list[Row]:
    rows = read_hub(task.hub.name, task.hub.config, split, task.columns, limit)
    if limit is None:
        hub.check_rows(task.hub, split, rows)
    return rows


def _checked(task: GenerationTask, rows: list[Row], place: str) -> list[Row]:
    """The rows, after looking that the target of each counts as right."""
    for number, row in enumerate(rows, start=1):
        try:
            right = task.is_correct(task.target(row), row)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{place}, row {number} can't be read as {task.name}: {error}. Row: {_shown(row)}"
            ) from error
        if not right:
            raise ValueError(
                f"{place}, row {number}: the answer doesn't hold the solution that {task.name} would look for in it. "
                f"Mend or remove {_shown(row)}"
            )
    return rows


def _shown(row: Row) -> str:
    return str(row)[:300]


def _number(text: object) -> float:
    found = number_in(str(text))
    if found is None:
        raise ValueError(f"the answer {str(text)[-80:]!r} has no number")
    return found


def _question(text: object) -> str:
    return f"Question: {' '.join(str(text).split())}\nAnswer:"


def _gsm8k_target(row: Mapping[str, Any]) -> str:
    # not greedy: a line can hold several <<...>>, and text between them
    return " " + re.sub(r"<<[^<>]*>>", "", str(row["answer"])).strip()


def _svamp_target(row: Mapping[str, Any]) -> str:
    """`( 76.0 - 25.0 )` and `51` become ` (76 - 25) = 51`."""
    equation = re.sub(r"(\d)\.0(?!\d)", r"\1", str(row["Equation"]))
    return f" {equation.replace('( ', '(').replace(' )', ')')} = {_plain(_number(row['Answer']))}"


def _plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def _svamp_question(row: Mapping[str, Any]) -> str:
    body = str(row["Body"]).strip()
    return _question(
        f"{body} {row['Question']}" if body.endswith((".", "?", "!", ",")) else f"{body}. {row['Question']}"
    )


def _mathqa_prompt(row: Mapping[str, Any]) -> str:
    return f"Question: {row['Problem']}\nOptions: {row['options']}\nAnswer:"


def _mathqa_target(row: Mapping[str, Any]) -> str:
    rationale = str(row["Rationale"]).strip().strip('"').strip()
    return f" {rationale}\n#### {row['correct']}"


def _hellaswag_text(text: object) -> str:
    """WikiHow's markers are no language; some copies of the data have lost them."""
    return " ".join(re.sub(r"\[(header|title|step|substeps)\]", " ", str(text)).split())


def _hellaswag_prompt(row: Mapping[str, Any]) -> str:
    options = "\n".join(f"{letter}. {_hellaswag_text(end)}" for letter, end in zip("ABCD", row["endings"], strict=True))
    return f"{_hellaswag_text(row['activity_label'])}: {_hellaswag_text(row['ctx'])}\n{options}\nThe best ending is:"


def _hellaswag_target(row: Mapping[str, Any]) -> str:
    return f" {'ABCD'[int(row['label'])]}"


_NEXT_QUESTION = r"(?=\n\s*(?:Question|Options):)"
_AFTER_MARK = re.compile(rf"####\s*(?!Question:|Options:)(?=\S)[^\n]*(?=\n)|{_NEXT_QUESTION}")
# a number and words, such as its unit; "= 5 + 3" goes on
_RESULT = r"[-\u2212]?[$€£]?[-\u2212]?[\d.,/]+(?:e[+-]?\d+)?(?:[^\S\n]+[a-z.]+)*[^\S\n]*"
_AFTER_RESULT = re.compile(rf"=\s*{_RESULT}(?=\n)|{_NEXT_QUESTION}", re.IGNORECASE)
_AFTER_LINE = re.compile(r"\S[^\n]*(?=\n)")


def _holds_number(text: str) -> bool:
    return number_in(text) is not None


def _holds_letter(letters: str) -> Callable[[str], bool]:
    return lambda text: letter_in(text, letters) is not None


def _is_number_of(column: str) -> Callable[[str, Mapping[str, Any]], bool]:
    return lambda text, row: same_number(text, _number(row[column]))


_GSM8K = GenerationTask(
    name="gsm8k",
    hub=hub.GSM8K,
    columns=("question", "answer"),
    prompt=lambda row: _question(row["question"]),
    target=_gsm8k_target,
    is_correct=_is_number_of("answer"),
    is_readable=_holds_number,
    max_new_tokens=256,
    stop=_AFTER_MARK,
)
_SVAMP = GenerationTask(
    name="svamp",
    hub=hub.SVAMP,
    columns=("Body", "Question", "Equation", "Answer"),
    prompt=_svamp_question,
    target=_svamp_target,
    is_correct=_is_number_of("Answer"),
    is_readable=_holds_number,
    max_new_tokens=48,
    stop=_AFTER_RESULT,
)
_MATHQA = GenerationTask(
    name="mathqa",
    hub=hub.MATHQA,
    columns=("Problem", "Rationale", "options", "correct"),
    prompt=_mathqa_prompt,
    target=_mathqa_target,
    is_correct=lambda text, row: letter_in(text, _LETTERS) == str(row["correct"]).strip().lower(),
    is_readable=_holds_letter(_LETTERS),
    max_new_tokens=256,
    stop=_AFTER_MARK,
)
_METAMATHQA = GenerationTask(
    name="metamathqa",
    hub=hub.METAMATHQA,
    columns=("query", "response"),
    prompt=lambda row: _question(row["query"]),
    target=lambda row: f" {str(row['response']).strip()}",
    is_correct=lambda text, row: True,  # its answers may be formulas; only GSM8K's are marked
    is_readable=_holds_number,
    max_new_tokens=256,
    stop=_AFTER_MARK,
    tested_on="gsm8k",
)
_HELLASWAG = GenerationTask(
    name="hellaswag",
    hub=hub.HELLASWAG,
    columns=("activity_label", "ctx", "endings", "label"),
    prompt=_hellaswag_prompt,
    target=_hellaswag_target,
    is_correct=lambda text, row: letter_in(text, "abcd") == "abcd"[int(row["label"])],
    is_readable=_holds_letter("abcd"),
    max_new_tokens=4,
    stop=_AFTER_LINE,
    test_split="validation",
)
GENERATION_TASKS = {task.name: task for task in (_GSM8K, _SVAMP, _MATHQA, _METAMATHQA, _HELLASWAG)}
