"""Answers that are made once for all who ask."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.answers import Answers
from app.limits import TooSlowError


def test_two_who_ask_get_one_answer_and_an_error_is_told_to_both_and_not_kept():
    answers, end, begun = Answers(10), threading.Event(), []

    def slow():
        begun.append(1)
        assert end.wait(30)
        if len(begun) == 1:
            raise KeyError("of the first")
        return "found"

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(answers.get, "a", slow) for _ in range(2)]
        assert answers.ready("a") is None
        while not all(one.running() for one in both) or not begun:
            time.sleep(0.001)
        threading.Timer(0.05, end.set).start()
        for one in both:
            with pytest.raises(KeyError, match="of the first"):
                one.result(30)
    assert begun == [1] and answers.ready("a") is None
    assert answers.get("a", slow) == answers.get("a", slow) == answers.ready("a") == "found" and len(begun) == 2


def test_those_that_were_not_asked_for_longest_go():
    answers, made = Answers(2), []

    def make(key):
        made.append(key)
        return key.upper()

    def get(key):
        return answers.get(key, lambda: make(key))

    assert [get(key) for key in "ab"] == ["A", "B"]
    assert answers.ready("a") == "A"  # that counts as asked for
    get("c")
    assert [answers.ready(key) for key in "abc"] == ["A", None, "C"] and made == ["a", "b", "c"]
    answers.forget("a")
    answers.forget("never asked for")
    assert answers.ready("a") is None and get("a") == "A" and made == ["a", "b", "c", "a"]


def test_nobody_waits_for_good_for_an_answer_that_another_makes():
    answers, end = Answers(10, seconds=0.05), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(answers.get, "a", lambda: end.wait(30))
        while "a" not in answers._found:
            time.sleep(0.001)
        with pytest.raises(TooSlowError, match=r"0\.05 s ago"):
            answers.get("a", lambda: "never")
        end.set()
        assert first.result(30) is True
