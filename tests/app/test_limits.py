"""A view that takes too long says so, and holds up nothing else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import gradio as gr
import pytest

from app.library import Library
from app.limits import Limits, TooSlowError
from app.selection import MOST_CHOICES, Asked, select
from app.synthetic import make_run
from app.tabs import page as whole
from app.tabs.shared import Page
from reslora_sd.runs.reader import read_run


def test_what_takes_too_long_is_told_and_goes_on_once():
    limits, end, begun = Limits(seconds=0.05, most=1), threading.Event(), []

    def slow():
        begun.append(1)
        assert end.wait(30)
        return "done"

    for _ in range(2):
        with pytest.raises(TooSlowError, match=r"The grid takes longer than 0\.05 s"):
            limits.get("The grid", "a", slow)
    with pytest.raises(TooSlowError, match="Curves waits: 1 views that took too long"):
        limits.get("Curves", "b", lambda: "quick")
    end.set()
    limits.seconds = 30
    assert limits.get("The grid", "a", slow) == "done" and len(begun) == 1
    assert limits.get("Curves", "b", lambda: "quick") == "quick"
    assert limits.get("The grid", "a", slow) == "done" and len(begun) == 2  # its late result was handed over once


def test_a_late_result_waits_for_who_asks_again_after_others_have_come():
    limits, end, begun = Limits(seconds=0.05), threading.Event(), []

    def slow():
        begun.append(1)
        end.wait(30)
        return "done"

    with pytest.raises(TooSlowError):
        limits.get("The grid", "a", slow, "before")
    end.set()
    limits.seconds = 30
    assert limits.get("Curves", "b", lambda: "quick") == "quick"
    assert limits.get("The grid", "a", slow, "after") == "done" and begun == [1]


def test_equal_questions_at_the_same_time_are_computed_once_and_others_take_turns():
    limits, end, begun = Limits(seconds=30, at_once=2), threading.Event(), []

    def slow(key):
        begun.append(key)
        assert end.wait(30)
        return key

    asked = [(key, state) for key in "abc" for state in ("same", "same", "changed")]
    with ThreadPoolExecutor(len(asked)) as pool:
        found = [pool.submit(limits.get, "The grid", key, partial(slow, key), state) for key, state in asked]
        while len(limits._running) < 6:
            time.sleep(0.01)
        time.sleep(0.05)
        at_once = len(begun)
        end.set()
        assert [one.result(30) for one in found] == [key for key, _ in asked]
    assert at_once == 2 and sorted(begun) == sorted("abcabc") and not limits._running


def test_what_a_view_raises_is_raised_and_a_timeout_of_its_own_is_no_limit():
    limits = Limits(seconds=30)
    for error in (ValueError, TimeoutError):

        def failing(error=error):
            raise error("of the view")

        with pytest.raises(error, match="of the view"):
            limits.get("The grid", "a", failing)


def test_every_view_of_the_page_has_the_limit(made_up, tmp_path, monkeypatch):
    def slow(_self, what, *_):
        raise TooSlowError(f"{what} takes longer than it may")

    monkeypatch.setattr(Limits, "get", slow)
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here")
    blocks = whole.build(page)
    buttons = {block.elem_id: block._id for block in blocks.blocks.values() if isinstance(block, gr.Button)}
    wanted = {f"redraw-{name}" for name in (*whole._TABS[1:], "grid")} | {"refresh", "restore"}
    assert wanted == {one for one in wanted for fn in blocks.fns.values() if (buttons[one], "click") in fn.targets}
    for fn in blocks.fns.values():
        if any(target in {(buttons[one], "click") for one in wanted} for target in fn.targets):
            assert fn.fn is not None
            *unchanged, said = fn.fn(*[None] * len(fn.inputs))
            assert "takes longer than it may" in said, fn.name
            assert len(unchanged) == len(fn.outputs) - 1


def test_a_slow_run_leaves_a_page_that_says_so(made_up, tmp_path, monkeypatch):
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here", opening=Limits(seconds=0.05))
    monkeypatch.setattr(page.visits, "select", lambda *_: time.sleep(1))
    _, make = whole._parts(page)("run=lora")
    with pytest.raises(TooSlowError) as caught:
        make()
    properties, _, start = whole._without(str(caught.value))
    assert "takes longer than" in properties["slow"]["value"] and "takes longer than" in start
    assert '"address":""' in start  # the script then asks again


def test_slow_views_of_one_visitor_keep_nobody_from_the_page_or_from_a_choice(made_up, tmp_path):
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here", limits=Limits(seconds=0.01, most=1))
    end = threading.Event()
    grid = page.limited("The grid", lambda: end.wait(30), 1)
    assert "takes longer than" in grid()[-1]
    assert "waits" in page.limited("Curves", lambda: 1, 1)()[-1]
    _, make = whole._parts(page)("")
    assert "redraw" not in make()[2]
    assert page.limited("The page", lambda: 1, 1, page.opening)() == (1, "")
    end.set()


def test_equal_values_of_another_function_are_another_question(made_up, tmp_path):
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here", limits=Limits(seconds=0.01))
    end = threading.Event()
    assert "takes longer" in page.limited("The page", lambda one: end.wait(30), 1)("same")[-1]
    assert page.limited("The page", lambda one: "other", 1)("same") == ("other", "")
    end.set()


def test_a_menu_has_no_more_choices_than_a_browser_can_hold(tmp_path):
    prompts = tuple(f"prompt {number}" for number in range(MOST_CHOICES + 3))
    run = read_run(make_run(tmp_path / "lora", steps=1, prompts=prompts, side=1))
    found = select({"lora": run}, Asked())
    assert len(found.prompts) == MOST_CHOICES and found.left_out == 3
