"""answers.jsonl: bounded, and right where the task says so."""

from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.text import answered
from reslora_sd.text.tasks import task_named


def test_a_file_that_would_be_too_large_ends_early_and_says_so(tmp_path, monkeypatch, caplog):
    row = {"Body": "Tom has 3 pens", "Question": "How many?", "Equation": "3.0", "Answer": "3"}
    texts: dict[str, list[str | None]] = {"base": [None] * 50, "unmerged": [" 3 = 3"] * 50}
    monkeypatch.setattr(answered, "MOST_BYTES", 5000)
    answered.write_answers(tmp_path, task_named("svamp"), [row] * 50, texts)
    found = read_jsonl(tmp_path / "answers.jsonl")
    assert 0 < len(found) < 50 and (tmp_path / "answers.jsonl").stat().st_size <= 5000
    assert f"the answers to {50 - len(found)} rows are left out" in caplog.text
    assert found[0]["right"] == {"base": False, "unmerged": True} and found[0]["target"] == "3 = 3"
