"""The model's parts, and the pipelines made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from reslora_sd.assets import DEFAULT_MODEL
from reslora_sd.diffusion.models import load_parts
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_jsonl


@pytest.fixture
def as_v_prediction(tiny_pipeline_folder, tmp_path):
    """A copy whose scheduler says v_prediction."""
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "labelled"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    return folder


def test_the_given_prediction_type_reaches_every_picture_the_file_and_the_user(
    train, as_v_prediction, capsys, fresh_accelerate
):
    flags: tuple[object, ...] = ("--max_train_steps", 1, "--validation_steps", 1, "--validation_prompts", "red")
    flags += ("--validation_inference_steps", 2, "--method", "lora")
    labelled = train(*flags, model=as_v_prediction, output="labelled")
    assert "pipeline.scheduler" not in capsys.readouterr().out
    told = train(*flags, "--prediction_type", "v_prediction", output="told")
    assert "from_config(config, prediction_type='v_prediction')" in capsys.readouterr().out
    pictures = [
        {(row["step"], row["merge_approach"]): row["sha256"] for row in read_jsonl(run / "validation" / "index.jsonl")}
        for run in (labelled, told)
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 4
    for name in ("pytorch_lora_weights.safetensors", "told.safetensors"):
        assert load_tensors(told / name)[1]["modelspec.prediction_type"] == "v"


def test_the_sampler_of_an_epsilon_model_stays_as_it_is(tiny_pipeline_folder):
    for asked in (None, "epsilon"):
        parts = load_parts(tiny_pipeline_folder, prediction_type=asked)
        assert not parts.relabelled and parts.pipeline().scheduler.config.prediction_type == "epsilon"
    parts = load_parts(tiny_pipeline_folder, prediction_type="v_prediction")
    for fresh_unet in (False, True):
        pipeline = parts.pipeline(fresh_unet)
        assert pipeline.scheduler.config.prediction_type == "v_prediction"
        assert type(pipeline.scheduler).__name__ == "DDIMScheduler"


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks.*:UserWarning")  # of diffusers
def test_pipelines_come_from_the_given_cache_offline(tiny_pipeline_folder, tmp_path, monkeypatch):
    """As the Hub's client lays its cache out; without the network, the default cache wouldn't do."""
    model = tmp_path / "cache" / "models--someone--tiny"
    revision = "0123456789" * 4
    shutil.copytree(tiny_pipeline_folder, model / "snapshots" / revision)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    parts = load_parts("someone/tiny", cache_dir=str(tmp_path / "cache"))
    fresh = parts.pipeline(fresh_unet=True)
    assert fresh.unet is not parts.unet and parts.pipeline().unet is parts.unet
    assert torch.equal(fresh.unet.conv_in.weight, parts.unet.conv_in.weight)


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks.*:UserWarning")  # of diffusers
def test_a_model_that_is_nowhere_is_told_with_a_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in (tmp_path / "nowhere", "nowhere"):
        with pytest.raises(ValueError, match=r"Cannot read model_index\.json .*no such folder.*that is embedded here"):
            load_parts(name)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_the_embedded_model_loads_plainly_in_every_precision(dtype):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(DEFAULT_MODEL, **({"dtype": dtype} if dtype else {}))
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {value.dtype for part in parts for value in part.parameters()} == {dtype or torch.float32}
    if dtype is None:
        assert pipeline("cat face", num_inference_steps=1).images[0].size == (64, 64)
