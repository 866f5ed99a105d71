"""How much comes after the training: in proportion, in counts that a resumed run repeats."""

import pytest

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.effort import Effort, effort_of

OTHER = ["--pretrained_model_name_or_path", "some/model", "--train_data_dir", "pictures"]


def effort(steps, batch_size, *flags):
    return effort_of(parse_settings([*OTHER, "--train_batch_size", str(batch_size), *flags]), steps)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 16])
@pytest.mark.parametrize("steps", [1000, 1500, 5000, 100_000])
def test_from_1000_steps_on_it_is_at_most_a_tenth_of_the_training(steps, batch_size):
    found = effort(steps, batch_size)
    training = 3 * steps * batch_size  # a backward pass costs two forward passes
    drawing = 2 * 50  # the README's two prompts: 25 steps, each with and without the prompt
    models = 7  # base, unmerged, four merges, the exported file
    assert 1.5 * found.calibration + models * found.measured + drawing <= 0.1 * training
    assert not found.draw_others


def test_short_trainings_have_the_least_that_statistics_need():
    assert effort(16, 1) == effort(120, 4) == Effort(calibration=64, measured=8)


def test_flags_ask_for_more_or_less():
    assert effort(16, 1, "--report") == Effort(512, 128, draw_others=True)
    assert effort(16, 1, "--calibration_samples", "300") == Effort(300, 8)
    assert effort(16, 2, "--no_report") == Effort(64, 2, other_merges=False, draw=False)


def test_the_published_reading_of_eq_13_needs_statistics():
    flags = ("--method", "reslora_ms", "--merge_approach", "weights", "--no_report")
    assert not effort(16, 2, *flags).takes_statistics("middle", "weights")
    assert effort(16, 2, *flags, "--alpha_from", "inputs").takes_statistics("middle", "weights")
