"""The figures on pictures whose answer is known, and the command from end to end with a training of one step."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from reslora_sd.diffusion import evaluate_own
from reslora_sd.diffusion.evaluate_own import OwnSettings, colour_error, nearest, subject, subject_colour

PAPER = (0.9, 0.9, 0.8)


def picture(colour, place=4):
    """A square of 4 x 4 pixels on paper of 16 x 16."""
    found = np.full((16, 16, 3), PAPER)
    found[place : place + 4, place : place + 4] = colour
    return found


def test_the_subject_is_what_differs_from_the_paper():
    assert subject(picture((0.8, 0.1, 0.1))).sum() == 16
    assert subject(picture((0.8, 0.85, 0.7))).sum() == 0  # a shade of the paper
    assert subject_colour(picture((0.8, 0.1, 0.1))) == pytest.approx((0.8, 0.1, 0.1))
    assert subject_colour(picture(PAPER)) == pytest.approx(PAPER)


def test_the_colour_error_compares_subjects_wherever_they_are():
    wanted = [picture((0.8, 0.1, 0.1)), picture((0.1, 0.1, 0.8))]
    moved = [picture((0.8, 0.1, 0.1), place=9), picture((0.1, 0.4, 0.8), place=2)]
    assert colour_error(moved, wanted) == pytest.approx((0 + 0.1) / 2)


def test_the_nearest_picture_is_that_of_the_same_subject_and_colour():
    wanted = [picture((0.8, 0.1, 0.1)), picture((0.1, 0.1, 0.8)), picture((0.8, 0.1, 0.1), place=9)]
    drawn = [picture((0.7, 0.2, 0.1)), picture((0.7, 0.2, 0.1), place=10), picture((0.2, 0.2, 0.6))]
    assert nearest(drawn, wanted) == [0, 2, 1]


def test_training_gets_the_drawings_and_nothing_but_its_own_defaults(monkeypatch, tmp_path):
    started: list[list[str]] = []

    def run(command):
        started.append(command)
        return subprocess.CompletedProcess[str](command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match="status 3"):
        evaluate_own.train(OwnSettings(output_dir=str(tmp_path)))
    _, script, *words = started[0]
    assert script.endswith("train_text_to_image_reslora.py")
    flags = {"--train_data_dir", "--output_dir", "--method", "--seed", "--overwrite_output_dir"}
    assert {word for word in words if word.startswith("--")} == flags
    assert len(list((tmp_path / "flat" / "pictures").glob("*.png"))) == 12


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "reslora_is"])
@pytest.mark.parametrize("kind", ["flat", "sketch"])
def test_twelve_drawings_are_learned_by_subject_and_colour(tmp_path, kind, method):
    figures = evaluate_own.main(OwnSettings(kind, method, output_dir=str(tmp_path)))
    assert figures["hits"] >= 9 and figures["colour_error"] <= 0.06
