"""Curves: what is plotted, and how soon one run comes as far as another."""

from pathlib import Path

import pytest

from app.curves import METRICS, axis, colours, limits, reach, reach_text, smooth, table
from app.library import Library
from reslora_sd.runs.run import Run


def run_of(losses, held=None):
    held = held or {}
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    for row in rows:
        if row["step"] in held:
            row["validation_loss"] = held[row["step"]]
    return Run(Path(), log=rows)


def test_smoothing_is_the_weighted_mean_of_what_came_before():
    values = [3.0, 1.0, 2.0]
    assert smooth(values, 0) == values
    weights = [0.25, 0.5, 1.0]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert smooth(values, 0.5)[2] == pytest.approx(expected)
    assert smooth([5.0] * 4, 0.9) == pytest.approx([5.0] * 4)  # without a pull to 0 at the start


def test_all_runs_are_in_one_table(made_up_pair):
    library = Library(made_up_pair)
    runs = library.get(library.names())
    found = table(runs, "loss", 0)
    assert set(found["run"]) == {"LoRA", "ResLoRA (input)"}
    assert len(found[found["run"] == "LoRA"]) == 20
    assert set(colours(list(runs))) == set(found["run"])
    for metric in METRICS:
        assert not table(runs, metric).empty


def test_a_metric_that_no_run_has_gives_an_empty_table():
    assert table({"x": run_of([1.0])}, "memory", 0.9).empty


def test_a_long_run_is_thinned_out_but_keeps_its_last_step():
    found = table({"x": run_of([1.0] * 10_000)}, "loss")
    assert len(found) <= 310 and found["step"].max() == 10_000


def test_the_figure_is_the_first_step_at_or_below_the_others_lowest_held_out_loss():
    a = run_of([1.0] * 40, {10: 0.9, 20: 0.6, 30: 0.7, 40: 0.65})
    b = run_of([1.0] * 40, {10: 0.8, 20: 0.61, 30: 0.6, 40: 0.5})
    found, back = reach(a, b), reach(b, a)
    assert found is not None and back is not None
    assert (found.metric, found.goal, found.steps_of_reference, found.steps_of_other) == (
        "validation_loss",
        0.6,
        20,
        30,
    )
    large, rule = reach_text("lora", "is", found)
    assert large == "30 steps, against 20" and "held-out" in rule and "0.6000, at step 20" in rule
    assert back.steps_of_other is None
    assert reach_text("is", "lora", back)[0] == "not reached"


def test_without_a_held_out_loss_it_is_of_the_smoothed_training_loss():
    a = run_of([2.0 - 0.01 * step for step in range(100)])
    b = run_of([2.0 - 0.02 * step for step in range(100)])
    found = reach(a, b, 0.0)
    assert found is not None
    assert (found.metric, found.steps_of_reference, found.steps_of_other) == ("loss", 100, 51)
    assert "training loss, smoothed" in reach_text("a", "b", found)[1]


def test_a_difference_of_one_percent_is_no_cliff_on_its_axis():
    low, high = limits([0.99, 1.0])
    assert high - low == pytest.approx(0.25) and low < 0.99 and high > 1.0
    assert limits([0.1, 1.5]) == (0.1, 1.5)  # what differs much has the axis for itself
    assert limits([0.0, 0.0]) == (0.0, 0.5) and limits([0.5]) == pytest.approx((0.4375, 0.5625))
    assert axis(table({"x": run_of([1.0] * 4)}, "loss", 0))[0] == pytest.approx(0.875)


def test_two_that_need_as_many_steps_are_not_set_against_each_other():
    run = run_of([1.0] * 40, {20: 0.7, 40: 0.6})
    assert reach_text("lora", "is", reach(run, run))[0] == "as many: 40"


def test_a_run_without_losses_has_no_figure():
    assert reach(run_of([1.0, 0.9]), Run(Path())) is None
    assert reach_text("a", "b", None)[0] == "no figure"
