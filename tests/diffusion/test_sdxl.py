"""SDXL in the script: what it is told of each picture, its two encoders, its VAE, and the file that comes out."""

from __future__ import annotations

import json
import random
import shutil
import threading
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from app.draw_request import DrawRequest
from app.generator import DrawJob, PictureGenerator
from reslora_sd.convert.converting import convert
from reslora_sd.convert.settings import Conversion, parse
from reslora_sd.diffusion.conditioning import encode_captions
from reslora_sd.diffusion.drawing import draw_pictures
from reslora_sd.diffusion.encodings import Encodings
from reslora_sd.diffusion.framing import Framing
from reslora_sd.diffusion.models import load_parts
from reslora_sd.files.storage import load_tensors
from reslora_sd.merging.plain_lora import PlainLoRA
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.reader import read_run
from tests.conftest import make_picture_folder
from tests.scripts import load_script
from tests.single_files import V, save_single_file, small_pipeline

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
SCRIPT = "train_text_to_image_reslora"


@pytest.fixture(scope="session")
def xl(tmp_path_factory):
    """A small SDXL pipeline's folder."""
    folder = tmp_path_factory.mktemp("xl") / "pipeline"
    small_pipeline("sdxl").save_pretrained(folder)
    return folder


def losses(run):
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def test_captions_are_encoded_as_diffusers_own_pipeline_does(xl, tmp_path):
    parts = load_parts(xl)
    cache = Encodings(tmp_path, parts)
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl)
    for caption in ("a red cat", ""):
        tokens, _, pooled, _ = pipeline.encode_prompt(caption, do_classifier_free_guidance=False)
        found = encode_captions(parts, [caption], quiet=True)[caption]
        assert torch.equal(found.tokens, tokens[0]) and found.pooled is not None
        assert torch.equal(found.pooled, pooled[0])
        cache.put_words(caption, found)
        kept = Encodings(tmp_path, parts).words(caption)
        assert kept is not None and kept.pooled is not None
        assert torch.equal(kept.tokens, found.tokens) and torch.equal(kept.pooled, found.pooled)


def test_the_unet_is_told_size_crop_and_target_of_each_picture_and_sees_them(train, xl, tmp_path):
    pictures = make_picture_folder(tmp_path / "wide", size=(48, 32))
    script: Any = load_script(SCRIPT)
    told: list[Any] = []
    script.finish = script.print_result = lambda *_, **__: None
    loss = script.diffusion_loss

    def note(unet, scheduler, latents, conditioning, *more):
        told.append(conditioning)
        return loss(unet, scheduler, latents, conditioning, *more)

    script.diffusion_loss = note
    train("--resolution", 16, "--no_buckets", "--max_train_steps", 2, model=xl, data=pictures, script=script)
    for conditioning in told:
        assert conditioning.pooled.shape == (2, 16) and conditioning.embeddings.shape[-1] == 40
        for height, width, top, left, *target in conditioning.time_ids.tolist():
            assert (height, width, top, target) == (32, 48, 0, [16, 16]) and 0 <= left <= 8
    assert len({int(left) for one in told for left in one.time_ids[:, 3]}) > 1  # crops are random here


def test_a_mirrored_crop_is_told_from_the_left_of_the_mirrored_picture():
    framing = Framing(16, random_flip=True)
    frames = [framing.frame((48, 16), random.Random(seed)) for seed in range(20)]
    assert {frame.flipped for frame in frames} == {True, False}
    for frame in frames:
        assert frame.time_ids[3] == (32 - frame.left if frame.flipped else frame.left)


@pytest.mark.parametrize("method", ["reslora_is", pytest.param("reslora_ms", marks=pytest.mark.slow)])
def test_a_run_of_sdxl_is_whole_and_its_file_draws_the_same_without_us(train, xl, method, capsys, tmp_path):
    flags: tuple[object, ...] = ("--method", method, "--max_train_steps", 2, "--validation_steps", 2)
    flags += ("--validation_prompts", "red", "--calibration_samples", 4)
    flags += ("--validation_inference_steps", 2, "--resolution", 16, "--save_lora_steps", 1)
    run = train(*flags, "--save_precision", "float32", model=xl)
    report = json.loads((run / "merge_report.json").read_text())
    plan = json.loads((run / "run.json").read_text())["link_plan"]
    assert report["end_to_end"]["active_linears_in_fresh_pipeline"] == len(plan) > 40
    assert report["approach"] == "least_squares" and report["end_to_end"]["drift"]["least_squares"] > 0
    metadata = load_tensors(run / "run.safetensors")[1]
    assert metadata["ss_clip_skip"] == "None"
    assert all(name.startswith("lora_unet_") for name in load_tensors(run / "run.safetensors")[0])
    assert len(list((run / "loras").iterdir())) == 2
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl)
    pipeline.load_lora_weights(str(run))
    pipeline.set_progress_bar_config(disable=True)
    [drawn] = pipeline(
        "red",
        generator=torch.Generator("cpu").manual_seed(42),
        num_inference_steps=2,
        guidance_scale=7.5,
        height=16,
        width=16,
    ).images
    [row] = [
        row
        for row in read_jsonl(run / "validation" / "index.jsonl")
        if row["step"] == 2 and row["merge_approach"] == "least_squares"
    ]
    saved = Image.open(run / "validation" / row["file"])
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(saved, dtype=int)).max() <= 1
    assert "load_lora_weights" in capsys.readouterr().out
    request = DrawRequest("red", steps=2, seed=42, guidance=7.5, approach="unmerged")
    job = DrawJob(request, lambda *_: None, threading.Event())
    unmerged, how = PictureGenerator([tmp_path, xl]).draw_adapted(read_run(run), 2, job)
    file = run / "validation" / row["file"].replace("least_squares", "unmerged")
    assert (
        how == "as trained"
        and np.abs(np.asarray(unmerged, dtype=int) - np.asarray(Image.open(file), dtype=int)).max() <= 2
    )


def test_a_resumed_run_of_sdxl_is_the_straight_run(train_only, xl):
    flags = ("--method", "reslora_is", "--resolution", 16, "--checkpointing_steps", 1)
    straight = train_only(*flags, "--max_train_steps", 2, output="straight", model=xl)
    train_only(*flags, "--max_train_steps", 2, output="resumed", model=xl)
    words = ("--max_train_steps", 2, "--resume_from_checkpoint", "checkpoint-1")
    resumed = train_only(*flags, *words, output="resumed", model=xl)
    assert losses(straight) == losses(resumed) and len(losses(straight)) == 2
    one, two = (load_tensors(run / "checkpoint-2" / "reslora_adapter.safetensors")[0] for run in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_pictures_of_the_class_are_drawn_and_trained_on_beside_masked_ones(train_only, xl, picture_folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in picture_folder.glob("*.png"):
        Image.linear_gradient("L").save(masks / file.name)
    words = ("--class_data_dir", tmp_path / "class", "--class_prompt", "a colour", "--num_class_images", 3)
    masked = ("--masked_loss", "--mask_data_dir", masks)
    drawn = ("--with_prior_preservation", *words, "--validation_inference_steps", 1)
    flags = (*drawn, *masked, "--method", "reslora_is", "--resolution", 16, "--checkpointing_steps", 1)
    run = train_only(*flags, "--max_train_steps", 2, model=xl)
    assert len(list((tmp_path / "class").glob("class-*.png"))) == 3
    said = json.loads((run / "run.json").read_text())["dataset"]
    assert (said["pictures"], said["of_the_class"]) == (11, 3)
    before = losses(run)
    train_only(*flags, "--max_train_steps", 2, "--resume_from_checkpoint", "checkpoint-1", model=xl)
    assert losses(run) == before and len(before) == 2 and all(np.isfinite(before))


@pytest.mark.slow
def test_a_run_of_sdxl_starts_from_its_lora(train, train_only, xl):
    flags = ("--resolution", 16, "--max_train_steps", 1, "--no_report")
    first = train(*flags, "--method", "lora", "--save_precision", "float32", output="first", model=xl)
    words = ("--method", "lora", "--init_lora", first / "first.safetensors")  # under Stability AI's names
    again = train_only(*flags, *words, output="again", model=xl)
    assert json.loads((again / "run.json").read_text())["init_lora"]["drift"] < 1e-5


def test_sdxl_in_one_file_is_the_folders_model(xl, tmp_path):
    file = save_single_file(StableDiffusionXLPipeline.from_pretrained(xl), tmp_path / "xl.safetensors")
    wanted, found = load_parts(xl), load_parts(file, model_config=str(xl))
    for one, two in zip(wanted.models, found.models, strict=True):
        state = two.state_dict()
        assert all(torch.equal(state[name], value) for name, value in one.state_dict().items())
    assert len(found.models) == 4 and type(found.pipeline()) is StableDiffusionXLPipeline
    pipeline, says = small_pipeline("sdxl", **V), {"modelspec.prediction_type": "v"}
    marked = save_single_file(pipeline, tmp_path / "v.safetensors", torch.float16, **says)
    assert load_parts(marked, model_config=str(xl)).scheduler.config.prediction_type == "v_prediction"


def test_the_vae_of_sdxl_stays_in_float32_beside_half_weights_and_draws(xl):
    parts = load_parts(xl)
    parts.to(torch.device("cpu"), torch.bfloat16)
    assert parts.vae.dtype == torch.float32 and parts.dtype == parts.unet.dtype == torch.bfloat16
    assert parts.text_encoder_2 is not None and parts.text_encoder_2.dtype == torch.bfloat16
    [drawn] = draw_pictures(parts.pipeline(), prompt=["red"], num_inference_steps=1, height=16, width=16)
    assert drawn.size == (16, 16)


@pytest.fixture
def other_vae(tmp_path):
    other = small_pipeline("sdxl").vae
    other.decoder.conv_out.bias.data.fill_(1)
    other.register_to_config(force_upcast=False)
    other.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_a_named_vae_draws_and_runs_in_half_precision_if_it_says_that_it_can(xl, other_vae):
    parts = load_parts(xl, pretrained_vae_model_name_or_path=str(other_vae))
    parts.to(torch.device("cpu"), torch.bfloat16)
    assert parts.vae.dtype == torch.bfloat16
    assert float(parts.pipeline().vae.decoder.conv_out.bias.mean()) == 1
    with pytest.raises(ValueError, match=r"--pretrained_vae_model_name_or_path .*no VAE can be read"):
        load_parts(xl, pretrained_vae_model_name_or_path=str(xl / "nothing"))


@pytest.mark.slow
def test_a_named_vae_takes_the_place_of_the_models(train_only, xl, other_vae, tmp_path):
    shutil.copytree(xl, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "vae")
    shutil.copytree(other_vae, tmp_path / "whole" / "vae")
    flags = ("--max_train_steps", 1, "--method", "lora", "--resolution", 16)
    runs = [
        train_only(*flags, "--pretrained_vae_model_name_or_path", place, output=place.name, model=xl)
        for place in (other_vae, tmp_path / "whole")
    ]
    assert losses(runs[0]) == losses(runs[1])


@pytest.mark.slow
def test_a_run_of_sdxl_is_merged_later_on_its_own_pictures(train, xl, tmp_path):
    run = train("--resolution", 16, "--max_train_steps", 2, "--no_report", "--save_precision", "float32", model=xl)
    command = parse([str(run), str(tmp_path / "later.safetensors"), "--merge", "--calibrate"])
    assert isinstance(command, Conversion)
    convert(command)
    one, two = (PlainLoRA.load(file).blocks for file in (run / "pytorch_lora_weights.safetensors", command.target))
    for name, block in one.items():
        assert (two[name].delta_weight() - block.delta_weight()).norm() <= 1e-2 * block.norm()
