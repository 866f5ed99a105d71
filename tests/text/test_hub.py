"""The Hub's data sets: their table, the check of a mirror's rows, and the command that tries them."""

import dataclasses
import datetime

import datasets
import pytest

from reslora_sd.text import hub, tasks
from reslora_sd.text.glue import HUB_NAME
from reslora_sd.text.tasks import GENERATION_TASKS, read_test

ROWS = [{"Problem": f"{i} ?", "Rationale": "so a", "options": "a ) 1", "correct": "a"} for i in range(3)]


def test_every_task_is_in_the_table_with_a_date_or_the_word_that_there_is_none():
    assert {task.hub.name for task in GENERATION_TASKS.values()} | {HUB_NAME} == {one.name for one in hub.ALL}
    for one in hub.ALL:
        assert one.source and (one.loaded is None or datetime.date.fromisoformat(one.loaded))
    assert "allenai/math_qa" not in {one.name for one in hub.ALL}  # a script, which datasets refuses


def test_the_hash_is_of_the_rows_and_not_of_their_order():
    assert hub.rows_hash(ROWS) == hub.rows_hash(ROWS[::-1]) != hub.rows_hash(ROWS[:2])
    assert hub.rows_hash(ROWS) != hub.rows_hash([*ROWS[:2], {**ROWS[2], "correct": "b"}])


def test_a_mirror_with_other_rows_is_told(monkeypatch, caplog):
    named = dataclasses.replace(hub.MATHQA, splits={"test": hub.Split(3, hub.rows_hash(ROWS))})
    task = dataclasses.replace(GENERATION_TASKS["mathqa"], hub=named)
    rows = list(ROWS)
    monkeypatch.setattr(tasks, "read_hub", lambda *args: rows)
    assert read_test(task, None, None) == ROWS and not caplog.text
    rows[0] = {**ROWS[0], "Problem": "other"}
    read_test(task, None, None)
    assert "are not those of the copy" in caplog.text
    rows.pop()
    with pytest.raises(ValueError, match=r"regisss/math_qa \(test\) has 2 rows, and 3 were published"):
        read_test(task, None, None)
    assert len(read_test(task, None, 2)) == 2


def test_the_command_tries_every_name_and_says_what_fails(monkeypatch, capsys):
    def load(name, config):
        if "SVAMP" in name:
            raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(RuntimeError, match=r"1 of 6 don't load: ChilleD/SVAMP\."):
        hub.main([])
    said = capsys.readouterr().out
    assert "regisss/math_qa: loads; last reported to load on 2026-07-19" in said
    assert "ChilleD/SVAMP: no such data set; no report found" in said
