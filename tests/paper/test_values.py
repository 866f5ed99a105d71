"""What a cell says of the runs that are there."""

import pytest

from reslora_sd.paper.curves import _against, _part, _smooth
from reslora_sd.paper.norms import _grid
from reslora_sd.paper.reading import metric_in
from reslora_sd.paper.rendered import mean_curves
from reslora_sd.paper.values import Value


@pytest.mark.parametrize(
    ("value", "text", "difference"),
    [
        (Value({1: 50.0, 2: 52.0, 3: 54.0}, 3), "52.00 ± 2.00", 2.0),
        (Value({1: 50.0, 2: 52.0}, 3), "51.00 ± 1.41 (2 of 3 seeds)", 1.0),
        (Value({1: 50.0}, 1), "50.00", 0.0),
        (Value({}, 3, gap="no run"), "gap", None),
        (Value({1: 3.0}, 1, unreadable=0.51), "X", None),
        (Value({1: 3.0}, 1, unreadable=0.5), "3.00", -47.0),
    ],
)
def test_mean_spread_gap_and_x(value, text, difference):
    assert value.text() == text and value.difference(50.0) == difference
    assert value.difference("X") is None and value.difference(None) is None


def test_several_test_sets_count_alike():
    assert metric_in({"accuracy (matched)": 0.5, "accuracy (mismatched)": 0.7, "loss": 9.0}, "accuracy") == 0.6
    assert metric_in({"f1": 0.5, "accuracy": 0.7}, "f1") == 0.5 and metric_in({"f1": None}, "f1") is None


def test_curves_are_means_of_seeds_at_shared_places_and_are_smoothed_in_parts():
    assert mean_curves([[(1, 2.0), (2, 4.0)], [(1, 4.0), (3, 0.0)]]) == [(1, 3.0)] and mean_curves([]) == []
    curve = [(step, float(step)) for step in range(1, 101)]
    assert _smooth(curve)[:2] == [(2, 1.5), (4, 3.5)] and _part(curve, 0.0, 0.5)[-1] == (50, 50.0)


def test_faster_and_better_are_against_loras_last_accuracy():
    lora, other = [(5, 10.0), (10, 40.0), (20, 40.0)], [(5, 40.0), (10, 45.0), (20, 50.0)]
    assert _against(lora, other) == (2.0, 25.0) and _against(lora, [(5, 10.0), (20, 20.0)]) == (None, -50.0)
    assert _against([(5, 0.0)], other) == (None, None) and _against([], other) == (None, None)


def test_blocks_are_told_by_projection_and_layer():
    names = ("model.layers.3.self_attn.q_proj", "bert.encoder.layer.11.attention.self.value", "lm_head")
    found = _grid([dict.fromkeys(names, 2.0), dict.fromkeys(names[:1], 4.0)])
    assert found == {("q_proj", 3): 3.0, ("value", 11): 2.0}
