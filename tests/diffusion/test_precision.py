"""Half precision from the first picture to the proof, also where autocast acts."""

from __future__ import annotations

import json
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from reslora_sd.diffusion import calibration
from reslora_sd.diffusion.precision import fit_threads, own_forward, use_own_forward
from reslora_sd.runs.jsonl import read_jsonl
from tests.scripts import load_script

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
SCRIPT = "train_text_to_image_reslora"
FLAGS: tuple[object, ...] = ("--max_train_steps", 1, "--validation_steps", 1, "--validation_prompts", "red")
FLAGS += ("--validation_inference_steps", 1, "--validation_samples", 2, "--method", "reslora_ms", "--report")
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def forced_autocast(monkeypatch):
    """As on a GPU: weights of the asked precision, and accelerate's autocast around the U-Net in training."""
    init = Accelerator.__init__

    def forced(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1.0) if self.mixed_precision == "fp16" else None

    monkeypatch.setattr(Accelerator, "__init__", forced)
    script = load_script(SCRIPT)
    monkeypatch.setattr(script, "frozen_dtype", lambda accelerator: HALF[accelerator.mixed_precision])
    return script


def assert_all_stages(run):
    drawn = {(row["step"], row["merge_approach"]) for row in read_jsonl(run / "validation" / "index.jsonl")}
    merged = {(1, name) for name in ("none", "input", "weights", "least_squares")}
    assert drawn == {(0, "unmerged"), (1, "unmerged"), (1, "base"), *merged}
    (row,) = read_jsonl(run / "log.jsonl")
    measured = json.loads((run / "merge_report.json").read_text())["end_to_end"]
    assert measured["active_linears_in_fresh_pipeline"] == 48
    assert all(math.isfinite(value) for value in [row["loss"], row["validation_loss"], *measured["loss"].values()])


def test_without_half_precision_all_is_float32(train):
    assert_all_stages(train("--mixed_precision", "no", *FLAGS))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_pictures_and_everything_after_training_come_out_in_half_precision(
    train, forced_autocast, precision, monkeypatch
):
    """accelerate makes the outputs of the U-Net that it prepared float32, which a half VAE refuses."""
    dtypes = set()
    predict = calibration.predict

    def seen(*args):
        prediction = predict(*args)
        dtypes.add(prediction.dtype)
        return prediction

    monkeypatch.setattr("reslora_sd.diffusion.finish.predict", seen)
    assert_all_stages(train("--mixed_precision", precision, *FLAGS, script=forced_autocast))
    assert dtypes == {HALF[precision]}


def test_fp16_on_a_cpu_trains_in_float32_and_says_so_once(train, caplog):
    flags = ("--max_train_steps", 2)
    run = train("--mixed_precision", "fp16", *flags)
    assert caplog.text.count("fp16 needs a GPU. On this CPU everything is float32.") == 1
    plain = train("--mixed_precision", "no", *flags, output="plain")
    assert [row["loss"] for row in read_jsonl(run / "log.jsonl")] == [
        row["loss"] for row in read_jsonl(plain / "log.jsonl")
    ]


def test_a_precision_that_we_lack_is_refused(train, monkeypatch):
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp8")
    with pytest.raises(ValueError, match=r"mixed precision is 'fp8'\. Give --mixed_precision no, fp16 or bf16"):
        train("--max_train_steps", 1)


def test_training_goes_on_with_the_prepared_forward():
    model = nn.Linear(2, 2)
    vars(model)["forward"] = prepared = lambda x: "prepared"
    x = torch.ones(1, 2)
    with pytest.raises(KeyError), own_forward(model):
        assert model(x).shape == (1, 2)
        raise KeyError
    assert vars(model)["forward"] is prepared
    use_own_forward(model)
    with own_forward(model):
        assert model(x).shape == (1, 2)
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("parameters", "device", "asked", "threads"),
    [(100, "cpu", None, 1), (100, "cpu", "3", 3), (100, "cuda", None, 3), (30_000_000, "cpu", None, 3)],
)
def test_a_tiny_model_on_a_cpu_gets_one_thread_unless_asked(monkeypatch, parameters, device, asked, threads):
    found = [3]
    monkeypatch.setattr(torch, "set_num_threads", lambda count: found.append(count))
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    fit_threads(torch.nn.Linear(parameters, 1, device="meta"), torch.device(device))
    assert found[-1] == threads
