"""Which prompts a run draws: those that are given, and captions of its data."""

from __future__ import annotations

import pytest

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.data import CaptionedImages
from reslora_sd.runs.jsonl import read_jsonl

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def drawn(run):
    """Prompts by step, in their order."""
    rows = [row for row in read_jsonl(run / "validation" / "index.jsonl") if row["merge_approach"] == "unmerged"]
    return {step: [row["prompt"] for row in rows if row["step"] == step] for step in {row["step"] for row in rows}}


def test_captions_come_from_all_over_the_data_and_none_twice():
    images = CaptionedImages.__new__(CaptionedImages)
    images.captions = [[one] for one in ("red fish", "red fish", "blue fish", "red mug", "blue mug", "red mug")]
    images.captions[2].append("another")
    images.priors = [False] * 6
    assert images.some_captions(2) == ["red fish", "red mug"]
    assert images.some_captions(99) == ["red fish", "blue fish", "red mug", "blue mug"]
    assert images.some_captions(0) == []


def test_captions_of_the_data_are_drawn_beside_the_prompts(train):
    flags = ("--validation_captions", 3, "--validation_steps", 2, "--max_train_steps", 2)
    run = train(*flags, "--validation_inference_steps", 1, "--validation_prompts", "a prompt", "colour 2")
    wanted = ["a prompt", "colour 2", "colour 0", "colour 5"]  # eight pictures; a prompt isn't drawn twice
    assert drawn(run) == {0: wanted, 2: wanted}
    real = read_jsonl(run / "validation" / "real.jsonl")
    assert [row["prompt"] for row in real] == ["colour 2", "colour 0", "colour 5"]


def test_captions_without_an_interval_are_drawn_every_epoch():
    words = ["--pretrained_model_name_or_path", "other/model", "--validation_captions", "1"]
    assert parse_settings(words).validation.validation_epochs == 1
