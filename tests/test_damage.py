"""A small share of `python -m tests.damage`, and what it looks for."""

from __future__ import annotations

import logging

import pytest

from tests.damage import Trials
from tests.damaged_kinds import KINDS, Kind


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("fresh_accelerate")
def test_whatever_is_damaged_gives_one_sentence_writes_nothing_and_executes_nothing(tmp_path):
    trials = Trials(tmp_path, KINDS)
    assert [fault for number in range(150) if (fault := trials.run(number, seed=7))] == []
    assert len({name.split(":")[0] for name in trials.outcomes}) == len(trials.kinds)


def _raises(folder):
    raise KeyError("x")


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (_raises, "KeyError"),
        (lambda folder: (folder / "new").write_text("x"), "something was written"),
        (lambda folder: (folder.parent / "marker").write_text("x"), "something was executed"),
        (lambda folder: int("no"), "the file isn't named"),
    ],
)
def test_a_reader_that_fails_in_another_way_is_found(tmp_path, read, words):
    kind = Kind("one", ("a.txt",), lambda folder: (folder / "a.txt").write_text("a\nb\n"), read)
    assert words in (Trials(tmp_path, (kind,)).run(0, seed=0) or "")
