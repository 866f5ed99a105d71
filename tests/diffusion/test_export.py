"""A run's LoRA in the hands of other programs: what its two files say, and what the user is told."""

from __future__ import annotations

import json
import logging
import time

import pytest
import torch
from safetensors import safe_open

from reslora_sd import PlainLoRA, ResLoRAConfig
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.diffusion.export import Exporter
from reslora_sd.files.lora_metadata import SD1
from reslora_sd.files.unet_names import SD, SDXL
from reslora_sd.runs.contents import kohya_file

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
SITE = "down_blocks.2.attentions.1.transformer_blocks.0.attn1.to_q"


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def plain(size=1.0):
    block = PlainBlock(size * torch.ones(2, 8), torch.ones(8, 2), 1.5)
    return PlainLoRA({SITE: block}, ResLoRAConfig(residual="none", r=2, lora_alpha=3), "exact")


def test_both_files_of_a_run_say_how_it_was_trained_and_nothing_of_this_machine(train, tmp_path, capsys):
    before = time.time()
    run = train("--method", "lora", "--max_train_steps", 5, "--snr_gamma", 5.0, "--no_report", output="rex")
    assert kohya_file(run) == "rex.safetensors"
    said = capsys.readouterr().out
    assert f"ComfyUI and A1111:   {run / 'rex.safetensors'}" in said
    assert "Saved in fp16: rounding changes the LoRA by 0.0" in said
    exported = json.loads((run / "merge_report.json").read_text())["exported"]
    assert exported["kohya"] == "rex.safetensors" and exported["precision"] == "fp16"
    assert 1e-5 < exported["rounding_error"] < 1e-2
    for name in ("pytorch_lora_weights.safetensors", "rex.safetensors"):
        found = metadata_of(run / name)
        assert str(tmp_path) not in json.dumps(found)
        assert found["ss_output_name"] == found["modelspec.title"] == "rex"
        assert found["ss_sd_model_name"] == found["base_model"] == "tiny"
        assert (found["ss_steps"], found["ss_max_train_steps"], found["ss_epoch"], found["ss_num_epochs"]) == (
            *("5", "5"),
            *("2", "2"),
        )
        assert found["ss_num_train_images"] == "8" and found["ss_num_batches_per_epoch"] == "4"
        assert found["ss_learning_rate"] == found["ss_unet_lr"] == "0.01" and found["ss_seed"] == "42"
        assert found["ss_min_snr_gamma"] == "5.0" and "ss_noise_offset" not in found
        assert found["ss_resolution"] == f"({found['modelspec.resolution'].replace('x', ', ')})"
        assert json.loads(found["ss_dataset_dirs"]) == {"pictures": {"n_repeats": 1, "img_count": 8}}
        assert sum(json.loads(found["ss_tag_frequency"])["pictures"].values()) == 8
        assert found["modelspec.prediction_type"] == "epsilon" and found["ss_base_model_version"] == "custom"
        started, finished = float(found["ss_training_started_at"]), float(found["ss_training_finished_at"])
        assert before < started < finished < time.time()


def test_at_a_checkpoint_the_files_say_its_step_and_have_a_name_of_their_own(tmp_path):
    exporter = Exporter(SD1, SD, "float32", {"ss_seed": "7", "modelspec.trigger_phrase": "rex"}, 4)
    exported = exporter(plain(), tmp_path, 6, "rex-step-6.safetensors")
    for path in (exported.diffusers.path, exported.kohya.path):
        found = metadata_of(path)
        assert (found["ss_steps"], found["ss_epoch"], found["ss_output_name"]) == ("6", "2", "rex-step-6")
        assert found["ss_base_model_version"] == "sd_v1" and found["modelspec.trigger_phrase"] == "rex"
        assert found["reslora_lora_alpha"] == "3" and found["modelspec.description"] == "lora, merged: exact"
    assert {path.name for path in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors", "rex-step-6.safetensors"}


def test_sdxl_gets_the_names_of_its_own_tools(tmp_path):
    for topology, stem in ((SD, "lora_unet_down_blocks_2_attentions_1"), (SDXL, "lora_unet_input_blocks_8_1")):
        exported = Exporter(SD1, topology, "fp16", {}, 1)(plain(), tmp_path, 1)
        with safe_open(exported.kohya.path, "pt") as file:
            assert all(key.startswith(stem) for key in file.keys())  # noqa: SIM118


def test_a_lora_that_half_precision_cant_hold_is_saved_whole(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "reslora_sd"):
        exported = Exporter(SD1, SD, "fp16", {}, 1)(plain(1e6), tmp_path, 1)
    assert exported.to_report()["precision"] == "float32"
    assert caplog.text.count("is saved in float32") == 2
    assert PlainLoRA.load(exported.kohya.path).blocks[SITE].norm() == pytest.approx(plain(1e6).blocks[SITE].norm())
