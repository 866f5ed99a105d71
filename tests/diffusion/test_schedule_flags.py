"""Flags of the schedule, of accumulation and of the pictures' size, by their effect."""

from __future__ import annotations

import pytest

from reslora_sd.runs.jsonl import read_jsonl

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def column(run, name):
    return [row[name] for row in read_jsonl(run / "log.jsonl")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr_warmup_steps", 5, "--lr_scheduler", "linear"), "--lr_warmup_steps is 5, and the run has 4 steps"),
        (("--lr_warmup_steps", 2), "--lr_warmup_steps is 2 and --lr_scheduler constant, which has no warm-up"),
        (("--resolution", 100), r"--resolution is 100\. It must be a multiple of 8 for this model: take 96 or 104\."),
        (("--resolution", 4), r"--resolution is 4\. .*: take 8\."),
    ],
)
def test_what_fits_neither_run_nor_model_is_refused_and_nothing_is_written(train, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        train(*flags)
    assert not (tmp_path / "run").exists()


def test_no_validation_images_are_no_pictures_and_the_kept_out_loss_is_still_measured(train):
    run = train(
        *("--num_validation_images", 0, "--validation_prompts", "colour 1"),
        *("--validation_steps", 2, "--validation_samples", 2),
    )
    assert not list(run.rglob("*.png"))
    assert [row["step"] for row in read_jsonl(run / "log.jsonl") if "validation_loss" in row] == [2, 4]


def test_the_launchers_accumulation_neither_beats_the_flag_nor_is_ignored(train, monkeypatch, tmp_path):
    flags = ("--gradient_accumulation_steps", 2, "--lr_scheduler", "linear", "--learning_rate", 1e-3)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    run = train(*flags)
    assert column(run, "lr") == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ValueError, match=r"--gradient_accumulation_steps is 2, and accelerate launch .* says 4"):
        train(*flags, output="other")
    assert not (tmp_path / "other").exists()
