"""The forecast of a run's rest: each part counted, and told once."""

import dataclasses

import pytest

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.effort import Effort
from reslora_sd.diffusion.forecast import Forecast, in_words

OTHER = ["--pretrained_model_name_or_path", "some/model", "--train_data_dir", "pictures", "--train_batch_size", "2"]
EFFORT = Effort(calibration=64, measured=12)


def forecast(method="lora", effort=EFFORT, total=100, **more):
    found = Forecast(parse_settings([*OTHER, "--method", method]), effort, total, loading_seconds=7.0, **more)
    for seconds in (60.0, 6.0, 6.0, 6.0, 30.0):  # the first step warms up
        found.after_step(len(found.step_seconds) + 1, seconds, lambda line: None)
    return found


def test_steps_that_are_left_cost_the_median_of_those_that_were_timed():
    loop, rest = forecast().seconds_left(40)
    assert loop == 60 * 6
    # a pass is a sixth of a step of two pictures; base, unmerged, merged and exported models are measured
    assert rest == 7 + 12 * 4 + 0


def test_statistics_and_four_merges_cost_more():
    _, rest = forecast("reslora_is").seconds_left(40)
    assert rest == 7 + 12 * 7 + 64 * 1.5
    _, rest = forecast("reslora_bs").seconds_left(40)  # exact, and beside it no merge at all
    assert rest == 7 + 12 * 5


def test_drawings_are_counted_with_the_last_step_and_the_exported_file():
    found = forecast(draw_every=30, pictures=3)
    found.drawing_seconds = 10.0
    loop, rest = found.seconds_left(40)
    assert loop == 60 * 6 + 3 * 10  # after steps 60, 90 and 100
    assert rest == 7 + 12 * 4 + 10
    with_report = dataclasses.replace(EFFORT, draw_others=True)
    found = forecast("reslora_is", with_report, draw_every=50, pictures=3)
    found.drawing_seconds = 10.0
    assert found.seconds_left(50)[0] == 50 * 6 + 10
    assert found.seconds_left(50)[1] == 7 + 12 * 7 + 64 * 1.5 + 4 * 10


def test_before_anything_was_drawn_its_passes_are_counted():
    found = forecast(draw_every=50, pictures=3)
    loop, _ = found.seconds_left(50)
    steps = found.settings.validation.validation_inference_steps
    assert loop == 50 * 6 + 3 * 2 * steps * 1.0


def test_a_run_tells_it_once_and_a_run_of_few_steps_never(train, capfd):
    train("--max_train_steps", 8, "--validation_prompts", "colour 1")
    assert capfd.readouterr().out.count(" to go: ") == 1
    train("--max_train_steps", 5, output="short")
    assert " to go: " not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40.4, "40 s"), (89, "89 s"), (100, "2 min"), (5340, "89 min"), (7790, "2 h 10 min")],
)
def test_times_are_rounded_to_what_can_be_known(seconds, words):
    assert in_words(seconds) == words
