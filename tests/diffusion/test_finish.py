"""What follows the last step: how much of it, and what the user is told."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from reslora_sd.diffusion import adapters
from reslora_sd.diffusion.validation import Validation
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.names import UNMERGED

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
PROMPTS = ("--validation_prompts", "colour 1", "--validation_steps", 2, "--validation_inference_steps", 2)


@pytest.fixture
def draws(monkeypatch):
    """The U-Nets that pictures were drawn with."""
    found, draw = [], Validation.draw

    def count(self, pipeline):
        found.append(pipeline.unet)
        return draw(self, pipeline)

    monkeypatch.setattr(Validation, "draw", count)
    return found


@pytest.mark.parametrize("method", ["lora", "reslora_bs"])
def test_exact_merges_collect_no_statistics_and_the_end_says_what_to_do(train, method, monkeypatch, draws, capsys):
    monkeypatch.setattr(adapters, "collect_statistics", None)
    run = train("--method", method, *PROMPTS)
    report = json.loads((run / "merge_report.json").read_text())
    others = {"lora": set(), "reslora_bs": {"none"}}[method]
    assert report["end_to_end"]["drift"].keys() == {"exact", *others}
    assert set(report["end_to_end"]["loss"]) == {"base", "unmerged", "exact", *others}
    errors = [block["error"] for block in report["blocks"].values()]
    assert method != "lora" or errors == [0.0] * 48
    assert len(draws) == 4  # steps 0, 2 and 4, and the exported file; base pictures are those of step 0
    rows = {(row["step"], row["merge_approach"]): row["sha256"] for row in read_jsonl(run / "validation/index.jsonl")}
    assert rows[4, "base"] == rows[0, "unmerged"] != rows[4, "unmerged"]
    said, bars = capsys.readouterr()
    assert "Drift" not in said
    for words in ("pytorch_lora_weights.safetensors, for the base model", "load_lora_weights", "reslora-page", "tiny"):
        assert words in said
    assert f"ComfyUI and A1111:   {run / 'run.safetensors'}" in said
    places = [
        bars.rindex(f"{name}: 100%") for name in ("merging", "measuring", "proving", "drawing with the exported file")
    ]
    assert places == sorted(places) and "statistics:" not in bars


def test_the_impatient_get_the_file_alone(train, draws, capsys):
    run = train("--no_report", *PROMPTS)
    end = json.loads((run / "merge_report.json").read_text())["end_to_end"]
    assert list(end["drift"]) == ["least_squares"] and end["active_linears_in_fresh_pipeline"] == 48
    assert len(draws) == 3
    assert {row["merge_approach"] for row in read_jsonl(run / "validation/index.jsonl")} == {"unmerged"}
    said, bars = capsys.readouterr()
    assert "least_squares" in said and "statistics: 100%" in bars


def test_base_pictures_of_step_0_are_taken_only_whole_and_of_the_same_settings(tmp_path):
    validation = Validation(("one", "two"), (7,), guidance_scale=4.0, resolution=8)
    run = RunFolder(tmp_path / "run")
    run.begin({})
    assert validation.drawn_at_first(run) is None
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    validation.save(pictures, run, 0, UNMERGED)
    found = validation.drawn_at_first(run)
    assert found is not None and [one.tobytes() for one in found] == [one.tobytes() for one in pictures]
    for change in ({"prompts": ("one", "three")}, {"seeds": (8,)}, {"guidance_scale": 3.0}, {"negative_prompt": "no"}):
        assert dataclasses.replace(validation, **change).drawn_at_first(run) is None
    assert dataclasses.replace(validation, resolution=16).drawn_at_first(run) is None
    first = next((run.path / "validation" / "step-000000").glob("*.png"))
    Image.new("RGB", (8, 8), "green").save(first)
    assert validation.drawn_at_first(run) is None
    first.write_bytes(b"no picture")
    assert validation.drawn_at_first(run) is None
