"""Models in one file: the same parts, losses and pictures as their folder, or a clear refusal."""

from __future__ import annotations

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from reslora_sd.assets import MODEL_CONFIGS
from reslora_sd.diffusion.models import load_parts, load_unet
from reslora_sd.diffusion.single_file import CheckpointFile
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_jsonl
from tests.single_files import V, save_single_file, small_pipeline
from tests.unets import SMALL_SD1, SMALL_SDXL, small_unet

_MODELS = ("text_encoder", "vae", "unet")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By family: a pipeline's folder, its single file, and a folder with its configs alone."""
    found = {}
    for family, schedule in (("sd1", {}), ("sd2", V)):
        folder = tmp_path_factory.mktemp(family)
        pipeline = small_pipeline(family, **schedule)
        pipeline.save_pretrained(folder / "pipeline")
        file = save_single_file(pipeline, folder / "photos v3.safetensors")
        shutil.copytree(folder / "pipeline", folder / "configs", ignore=shutil.ignore_patterns("*.safetensors", "tok*"))
        found[family] = folder / "pipeline", file, folder / "configs"
    return found


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_every_tensor_is_that_of_the_folder(models, family):
    folder, file, configs = models[family]
    wanted, found = load_parts(folder), load_parts(file, model_config=str(configs), tokenizer_name=str(folder))
    for part in _MODELS:
        one, two = getattr(wanted, part).state_dict(), getattr(found, part).state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one), part
        assert not getattr(found, part).training
    assert wanted.scheduler.config.prediction_type == found.scheduler.config.prediction_type
    alone = load_unet(str(file), model_config=str(configs)).state_dict()
    assert all(torch.equal(alone[name], value) for name, value in wanted.unet.state_dict().items())


@pytest.mark.parametrize("family", ["sd1", pytest.param("sd2", marks=pytest.mark.slow)])
def test_a_run_is_that_of_the_folder(train, train_only, models, family, fresh_accelerate):
    folder, file, configs = models[family]
    flags: tuple[object, ...] = ("--max_train_steps", 2, "--validation_steps", 2, "--validation_prompts", "red")
    flags += ("--validation_inference_steps", 2, "--method", "lora", "--resolution", 16, "--no_report")
    words = ("--model_config", configs, "--tokenizer_name", folder / "tokenizer")
    runs = [train_only(*flags, model=folder, output="one"), train(*flags, *words, model=file, output="two")]
    losses = [[row["loss"] for row in read_jsonl(run / "log.jsonl")] for run in runs]
    # a tensor's place in a file decides which of the CPU's kernels reads it, and so a last bit
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 2
    pictures = [[row["file"] for row in read_jsonl(run / "validation" / "index.jsonl")][:2] for run in runs]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2
    for name in pictures[0]:
        one, two = (np.asarray(Image.open(run / "validation" / name), dtype=int) for run in runs)
        assert abs(one - two).max() <= 1
    metadata = load_tensors(runs[1] / "two.safetensors")[1]
    assert metadata["ss_sd_model_name"] == "photos v3.safetensors"
    assert not any(str(file.parent) in value for value in metadata.values())


def test_half_precision_early_names_and_ema_load_as_they_should(models, tmp_path):
    folder, file, configs = models["sd1"]
    early = {name.replace(".text_model.", "."): tensor.half() for name, tensor in load_file(file).items()}
    early |= {
        "model_ema.decay": torch.ones(()),
        "model_ema.diffusion_modelout2bias": torch.ones(4),
        "v_pred": torch.ones(0),
    }
    save_file(early, tmp_path / "early.safetensors")
    parts = load_parts(tmp_path / "early.safetensors", model_config=str(configs), tokenizer_name=str(folder))
    wanted = load_parts(folder).unet.conv_out.bias
    assert parts.unet.dtype == torch.float32 and torch.equal(parts.unet.conv_out.bias, wanted.half().float())
    assert parts.scheduler.config.prediction_type == "v_prediction" and parts.relabelled  # v_pred says so
    assert parts.pipeline().scheduler.config.prediction_type == "v_prediction"


def test_a_v_model_with_zero_terminal_snr_is_trained_and_sampled_with_it(models, tmp_path):
    folder, file, configs = models["sd1"]
    marked = {**load_file(file), "v_pred": torch.ones(0), "ztsnr": torch.ones(0)}
    save_file(marked, tmp_path / "zero.safetensors")
    parts = load_parts(tmp_path / "zero.safetensors", model_config=str(configs), tokenizer_name=str(folder))
    assert float(parts.scheduler.alphas_cumprod[-1]) < 1e-6
    sampler = parts.pipeline().scheduler
    assert type(sampler).__name__ == "DDIMScheduler" and sampler.config.rescale_betas_zero_snr
    assert sampler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(
    ("metadata", "asked", "config", "kind"),
    [
        ({"modelspec.prediction_type": "v"}, None, "sd2-768-v", "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, None, "sd2-512", "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, None, "sd2-768-v", "v_prediction"),
        ({}, "epsilon", "sd2-512", "epsilon"),
        ({"modelspec.prediction_type": "epsilon"}, "v_prediction", "sd2-768-v", "v_prediction"),
    ],
)
def test_which_of_sd_2_a_file_is_comes_from_the_flag_or_its_metadata(tmp_path, metadata, asked, config, kind):
    file = tmp_path / "model.safetensors"
    save_file(_names("cond_stage_model.model.ln_final.bias"), file, metadata or None)
    found = CheckpointFile(str(file), asked)
    assert found.folder.name == config and found.sampled_as() == "v_prediction"
    from diffusers import DDPMScheduler

    if asked is None:
        assert found.load("scheduler", DDPMScheduler).config.prediction_type == kind


def _names(*more: str, channels: int = 4) -> dict[str, torch.Tensor]:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    return {first: torch.ones(2, channels, 3, 3), **{name: torch.ones(1) for name in more}}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (_names("cond_stage_model.model.ln_final.bias"), "Give --prediction_type v_prediction for a model of 768"),
        (_names("cond_stage_model.transformer.x", channels=9), "for inpainting: its U-Net reads 9 channels"),
        (_names(), "holds no text encoder"),
        (_names("conditioner.embedders.0.model.ln_final.bias"), "SDXL's refiner"),
        (_names("edm_mean"), "trained with EDM's noise"),
        ({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(1)}, "a LoRA. Start from it with --init_lora"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.ones(1)}, "a FLUX model"),
        ({"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, "a part of a pipeline's folder"),
        ({"decoder.conv_in.weight": torch.ones(1)}, "a VAE"),
        ({"anything": torch.ones(1)}, "no checkpoint of Stable Diffusion"),
        (_names("cond_stage_model.transformer.x"), "doesn't fit the config|holds no"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, tensors, told, monkeypatch):
    monkeypatch.setattr("reslora_sd.diffusion.single_file.clip_tokenizer", lambda *given: None)
    file = tmp_path / "some.safetensors"
    save_file(tensors, file)
    with pytest.raises(ValueError, match=told) as error:
        load_parts(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_unopened(tmp_path, suffix):
    torch.save({}, tmp_path / f"model{suffix}")
    with pytest.raises(ValueError, match=rf"model\{suffix} is a pickle.*weights_only"):
        load_parts(tmp_path / f"model{suffix}")


def test_missing_and_damaged_files_are_told_by_name(models, tmp_path):
    folder, file, configs = models["sd1"]
    words = str(folder)
    with pytest.raises(ValueError, match=r"There is no file .*gone\.safetensors"):
        load_parts(tmp_path / "gone.safetensors")
    whole = file.read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"<html>not found</html>")):
        damaged = tmp_path / f"{name}.safetensors"
        damaged.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors is no complete safetensors file"):
            load_parts(damaged, model_config=str(configs))
    tensors = load_file(file)
    tensors.pop("model.diffusion_model.out.2.bias")
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"unet in .*less\.safetensors doesn't fit .*tensors are missing"):
        load_parts(tmp_path / "less.safetensors", model_config=str(configs), tokenizer_name=words)
    with pytest.raises(ValueError, match=r"text_encoder in .*photos v3\.safetensors doesn't fit .*--model_config"):
        load_parts(file, tokenizer_name=words)
    with pytest.raises(ValueError, match="there is no model_index"):
        load_parts(file, model_config=str(tmp_path))
    with pytest.raises(ValueError, match="--model_config is for a model in one file"):
        load_parts(configs, model_config=str(configs))


@pytest.mark.parametrize(("family", "sizes"), [("sd1", SMALL_SD1), ("sdxl", SMALL_SDXL)])
def test_published_topologies_have_their_names(tmp_path, family, sizes):
    """Of all levels, as far as the U-Net goes."""
    pipeline = small_pipeline(family)
    pipeline.unet = small_unet(sizes)
    pipeline.save_pretrained(tmp_path / "four")
    file = save_single_file(pipeline, tmp_path / "four.safetensors")
    found = load_unet(str(file), model_config=str(tmp_path / "four")).state_dict()
    assert all(torch.equal(found[name], value) for name, value in pipeline.unet.state_dict().items())


PUBLISHED = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2-512": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sd2-768-v": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_configs_in_this_package_make_models_of_the_published_sizes(family):
    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    index = json.loads((MODEL_CONFIGS / family / "model_index.json").read_text())
    assert {path.name for path in (MODEL_CONFIGS / family).iterdir() if path.is_dir()} == {
        *PUBLISHED[family],
        "scheduler",
    }
    for part, count in PUBLISHED[family].items():
        where = MODEL_CONFIGS / family / part
        with torch.device("meta"):
            if part in kinds:
                model = kinds[part].from_config(kinds[part].load_config(where))
            else:
                kind = getattr(transformers, index[part][1])
                model = kind(kind.config_class.from_pretrained(where))
        assert sum(value.numel() for value in model.parameters()) == count, part
    scheduler = diffusers.DDPMScheduler.from_pretrained(MODEL_CONFIGS / family, subfolder="scheduler")
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0.004660, abs=1e-5)  # of all of Stable Diffusion's schedules
    assert (scheduler.config.prediction_type == "v_prediction") == family.endswith("-v")
