"""The script on generated drawings and tiny settings: exact resume, the folder, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reslora_sd.pretrain import data as pretrain_data
from reslora_sd.pretrain.loop import Stage
from tests.pretrain.conftest import pretrain, tiny_arguments
from tests.scripts import load_script


def assert_same(first: Any, second: Any, place: str = "checkpoint") -> None:
    """Tensors to the last bit, and all that holds them."""
    assert type(first) is type(second), place
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), place
    elif isinstance(first, dict):
        assert list(first) == list(second), place
        for key in first:
            assert_same(first[key], second[key], f"{place}[{key!r}]")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), place
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{place}[{number}]")
    else:
        assert first == second, place


@pytest.mark.slow
def test_a_resumed_run_equals_a_straight_run_bit_for_bit(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two runs learn two tokenizers: ties between byte pairs fall as they fall
    shutil.copytree(finished / "tokenizer", tmp_path / "tokenizer")
    run = Stage.run

    def stop_early(self: Stage, loss, on_save=None, stop_after=None) -> None:
        run(self, loss, on_save, stop_after=3)
        if self.progress < 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "run", stop_early)
    with pytest.raises(KeyboardInterrupt):  # in the first stage
        pretrain(tiny_arguments(data, tmp_path, "--resume"))
    with pytest.raises(KeyboardInterrupt):  # in the second
        pretrain(tiny_arguments(data, tmp_path, "--resume"))
    pretrain(tiny_arguments(data, tmp_path, "--resume"))
    for stage in ("vae", "denoiser"):
        straight = torch.load(finished / stage / "checkpoint.pt", weights_only=True)
        resumed = torch.load(tmp_path / stage / "checkpoint.pt", weights_only=True)
        assert straight["step"] == 4
        assert straight.pop("seconds") > 0 and resumed.pop("seconds") > 0  # work on the wall is never the same
        assert straight["optimizer"]["muons"] and straight["optimizer"]["adamw"]["state"]
        assert_same(straight, resumed)
    for file in (finished / "pipeline").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / file.relative_to(finished)).read_bytes()


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float32])
def test_the_folder_loads_in_plain_diffusers(finished: Path, dtype: torch.dtype | None) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(finished / "pipeline", dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == (dtype or torch.float32)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    pictures = pipeline("red circle", num_inference_steps=2, guidance_scale=4.0, output_type="np").images
    assert pictures.shape == (1, 32, 32, 3) and np.isfinite(pictures).all()


def test_the_folder_holds_float16_averaged_weights_and_the_names(data: Path, finished: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(finished / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    averaged = torch.load(finished / "denoiser" / "checkpoint.pt", weights_only=True)["averaged"]
    for name, value in weights.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, averaged[f"unet.{name}"].half()), name
    names = json.loads((finished / "pipeline" / "training_names.json").read_text())
    drawings = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    assert set(names) == set(pretrain_data.split_by_name(drawings, 2)[0].names)


def test_progress_is_logged(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "denoiser" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["progress"] for line in lines] == [0.25, 0.5, 0.75, 1.0]
    assert all(line["stage"] == "denoiser" and math.isfinite(line["loss"]) for line in lines)
    falling = 0.01 + 0.99 * (1 + math.cos(math.pi / 2)) / 2  # at three quarters: half way down the cosine
    assert [line["lr"] for line in lines] == pytest.approx([2e-3, 2e-3, 2e-3, 2e-3 * falling])


def test_samples_are_drawn_at_every_checkpoint(finished: Path) -> None:
    assert sorted(file.name for file in (finished / "samples").iterdir()) == ["step-000002.png", "step-000004.png"]
    with Image.open(finished / "samples" / "step-000004.png") as sheet:
        assert sheet.size == (2 * 68 + 4, 64 + 16 + 8)  # two prompts: twice 32 pixels, gaps, a line of text


def test_an_earlier_run_is_not_overwritten(data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "vae" / "checkpoint.pt").read_bytes()
    monkeypatch.setattr("sys.argv", ["pretrain_tiny_sd.py", *tiny_arguments(data, finished)])
    with pytest.raises(SystemExit, match=r"Error: .*is the checkpoint of an earlier run.* --resume"):
        load_script("pretrain_tiny_sd").cli()
    assert (finished / "vae" / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused(data: Path, finished: Path) -> None:
    with pytest.raises(ValueError, match="other model settings"):
        pretrain(tiny_arguments(data, finished, "--resume", "--vae_channels", "8", "16", "16"))


@pytest.mark.slow
def test_another_run_starts_from_a_pipeline_folder(data: Path, finished: Path, tmp_path: Path) -> None:
    more = ["--init_from", str(finished / "pipeline"), "--unet_steps", "1"]
    pretrain(tiny_arguments(data, tmp_path, *more, "--unet_learning_rate", "1e-9", "--save_every", "50"))
    before, after = (
        torch.load(folder / "denoiser" / "checkpoint.pt", weights_only=True) for folder in (finished, tmp_path)
    )
    for name, value in before["averaged"].items():
        if value.is_floating_point():  # the folder holds float16, and a step of 1e-9 moves next to nothing
            assert torch.allclose(value.half().float(), after["modules"][name], atol=1e-6), name
    for file in (tmp_path / "pipeline").glob("*/config.json"):
        assert str(finished) not in file.read_text()


@pytest.mark.slow
def test_the_autoencoder_of_another_folder_is_kept(data: Path, finished: Path, tmp_path: Path) -> None:
    pretrain(tiny_arguments(data, tmp_path, "--vae_from", str(finished / "pipeline"), "--unet_steps", "1"))
    assert not (tmp_path / "vae").exists()
    weights = Path("pipeline", "vae", "diffusion_pytorch_model.safetensors")
    assert (tmp_path / weights).read_bytes() == (finished / weights).read_bytes()
