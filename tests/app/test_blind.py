"""The blind test: hidden order, fair score, and an interval that is the exact one."""

import json

import gradio as gr
import pytest
from scipy.stats import binomtest

from app import blind
from app.blind import LEFT, NEITHER, RIGHT, Score, interval, make_test, needed
from app.library import Library
from app.tabs import blind_test
from app.tabs.shared import Page
from reslora_sd.runs.reader import read_run


@pytest.fixture
def runs(made_up_pair):
    """Runs whose pictures differ from step 10 on: the second one's index says so."""
    index = made_up_pair[1] / "validation" / "index.jsonl"
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    rows = [{**row, "sha256": row["sha256"] if row["step"] < 10 else "f" * 64} for row in rows]
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {path.name: read_run(path) for path in made_up_pair}


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (7, 10), (60, 100), (0, 30), (200, 200)])
def test_the_interval_is_the_exact_one(count, total):
    exact = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert interval(count, total) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_so_many_picks_are_needed_as_the_interval_says():
    assert needed(1.0) == 6 and interval(6, 6)[0] > 0.5 > interval(5, 5)[0]
    assert needed(0.5) is None


def test_pairs_are_those_that_both_runs_share_and_that_differ(runs):
    whole = make_test(runs, list(runs), 1, steps=blind.WHICH_STEPS[1])
    assert (len(whole.trials), whole.alike) == (6, 2)  # two prompts at steps 10, 15 and 20; step 5 is alike
    assert all(trial.first == trial.second for trial in whole.trials)
    assert len(make_test(runs, list(runs), 1).trials) == 2


def test_the_order_is_the_seeds_and_puts_each_run_on_both_sides(runs):
    def order(seed):
        trials = make_test(runs, list(runs), seed, steps=blind.WHICH_STEPS[1]).trials
        return [(trial.first.prompt, trial.first.step, trial.swapped) for trial in trials]

    assert order(1) == order(1) and len({tuple(order(seed)) for seed in range(5)}) == 5
    sides = [swapped for seed in range(50) for _, _, swapped in order(seed)]
    assert 0.35 < sum(sides) / len(sides) < 0.65


def test_picks_count_for_the_run_that_was_on_that_side(runs):
    test = make_test(runs, list(runs), 3, steps=blind.WHICH_STEPS[1])
    for trial in test.trials[:-1]:
        shown = test.pictures()
        assert shown is not None
        left, right = shown
        assert (left.title, right.title) == ("Left", "Right")
        assert not any(name in f"{one.alt}{one.title}{one.missing}" for one in (left, right) for name in runs)
        test.pick(RIGHT if trial.swapped else LEFT)  # the first run, wherever it is
    test.pick(NEITHER)
    assert test.score() == Score(5, 0, 1) and test.pictures() is None
    with pytest.raises(ValueError, match="All pairs are done"):
        test.pick(LEFT)
    said = blind.summary(test)
    assert "lora: 5, reslora_is: 0, can't tell: 1." in said and "lora was picked in 5 of 5 picks" in said


def test_it_says_what_picks_cannot_tell_and_what_they_can():
    assert "Nothing was picked yet" in Score(0, 0, 0).told("x", "y")
    few = Score(2, 4, 1).told("x", "y")
    assert "y was picked in 4 of 6 picks: 67 %" in few and "can't tell yet" in few and "about 42 picks" in few
    assert "That tells: x is picked more often than y" in Score(9, 1, 0).told("x", "y")


def test_runs_that_share_nothing_and_picks_that_are_none_are_told(runs):
    with pytest.raises(ValueError, match="needs two runs"):
        make_test(runs, ["lora", "lora"], 1)
    with pytest.raises(ValueError, match="share 0 pictures"):
        make_test(runs, list(runs), 1, variant="exact")
    with pytest.raises(ValueError, match="The pick is 'both'"):
        make_test(runs, list(runs), 1).pick("both")


def test_a_pair_whose_picture_is_gone_or_broken_is_skipped_and_counted(runs, made_up_pair):
    test = make_test(runs, list(runs), 3, steps=blind.WHICH_STEPS[1])
    broken, gone = (runs["lora"].pictures[trial.first].file for trial in test.trials[1:3])
    (made_up_pair[0] / "validation" / broken).write_bytes(b"no picture")
    (made_up_pair[0] / "validation" / gone).unlink()
    for _ in range(4):
        assert test.pictures() is not None
        test.pick(LEFT)
    assert test.pictures() is None and (len(test.trials), test.unreadable) == (4, 2)
    assert "4 of 4 pairs" in blind.summary(test) and "can't be read: 2." in blind.summary(test)


def test_a_pick_is_of_the_pair_that_was_shown_and_tells_no_share_before_the_end(runs, tmp_path):
    page = Page(Library([]), tmp_path / "cache", tmp_path / "here")
    test, pick = make_test(runs, list(runs), 3), blind_test._pick(page, LEFT)
    assert 'data-pair="0"' in blind_test._show(page, test)[1]
    score = pick(test, "0")[7]
    assert "1 of 2 pairs are done" in score and "%" not in score
    for late in ("0", "", None):  # a second press, sent before the next pair was there
        assert pick(test, late)[0] == gr.skip() and len(test.picks) == 1
    assert "The test has ended after 2 of 2" in pick(test, "1")[1]
