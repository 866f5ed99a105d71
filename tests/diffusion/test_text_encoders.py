"""`--train_text_encoder`: what trains, what is saved, and that plain pipelines draw with it as we do."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

from app.draw_request import DrawRequest
from app.generator import DrawJob, PictureGenerator
from reslora_sd.adapter.training_form import read_training_form, write_training_form
from reslora_sd.blocks.frozen import mapped_blocks, share_map
from reslora_sd.convert.converting import convert
from reslora_sd.convert.settings import Conversion, parse
from reslora_sd.diffusion.adapters import add_adapters, in_files, load_adapters
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.starting import Start
from reslora_sd.files.storage import load_tensors
from reslora_sd.merging.plain_lora import PlainLoRA
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.names import ADAPTER_FILE, TEXT_ADAPTERS
from reslora_sd.runs.reader import read_run
from tests.single_files import small_pipeline
from tests.toys import move_away_from_zero

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
FAMILIES = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
DROPOUT = ("--train_text_encoder", "--resolution", 16, "--lora_dropout", 0.2)
DRAWN = ("--validation_prompts", "red", "--validation_steps", 2, "--validation_inference_steps", 2)
FLAGS = ("--train_text_encoder", "--target_modules", "kohya", "--resolution", 16, "--save_precision", "float32")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        small_pipeline(family).save_pretrained(place / family)
    return place


def drawn(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(42)
    asked = {"num_inference_steps": 2, "guidance_scale": 7.5, "height": 16, "width": 16}
    return np.asarray(pipeline("red", generator=seed, **asked).images[0], dtype=int)


def losses(run):
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def picture(run, approach, step=2):
    [row] = [
        row
        for row in read_jsonl(run / "validation" / "index.jsonl")
        if row["step"] == step and row["merge_approach"] == approach
    ]
    return np.asarray(Image.open(run / "validation" / row["file"]), dtype=int)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("sd1", "reslora_ms"),
        *(pytest.param("sdxl", f"reslora_{one}", marks=pytest.mark.slow) for one in ("is", "frozen")),
    ],
)
def test_a_run_is_whole_and_its_files_draw_the_same_without_us(train, folders, tmp_path, family, method):
    base = folders / family
    flags: tuple[object, ...] = (*FLAGS, "--method", method, "--max_train_steps", 2, *DRAWN, "--checkpointing_steps", 1)
    run = train(*flags, "--save_lora_steps", 2, "--learning_rate", 3e-2, model=base, output="run")
    about, report = (json.loads((run / name).read_text()) for name in ("run.json", "merge_report.json"))
    text = about["text_encoders"]
    layers = {"sd1": {"text_encoder": 2}, "sdxl": {"text_encoder": 1, "text_encoder_2": 2}}[family]
    assert {name: len(one["link_plan"]) for name, one in text.items()} == {n: 4 * k for n, k in layers.items()}
    blocks = len(about["link_plan"]) + 4 * sum(layers.values())
    assert report["end_to_end"]["active_linears_in_fresh_pipeline"] == blocks
    assert {name: len(found) for name, found in report["text_encoders"].items()} == {
        n: 4 * k for n, k in layers.items()
    }
    if method != "reslora_frozen":
        assert report["approach"] == "least_squares" and 0 < report["end_to_end"]["drift"]["least_squares"] < 1

    approach, wanted = report["approach"], picture(run, report["approach"])
    base_picture = drawn(FAMILIES[family].from_pretrained(base))
    for name in ("pytorch_lora_weights.safetensors", "run.safetensors"):
        pipeline = FAMILIES[family].from_pretrained(base)
        pipeline.load_lora_weights(run, weight_name=name)
        assert np.abs(drawn(pipeline) - wanted).max() <= 1 < np.abs(base_picture - wanted).max()
        assert PlainLoRA.load(run / name).text_encoders.keys() == layers.keys()
    kohya = Counter(name.split("_text_model")[0] for name in load_tensors(run / "run.safetensors")[0] if "_te" in name)
    expected = {"sd1": ["lora_te"], "sdxl": ["lora_te1", "lora_te2"]}[family]
    assert kohya == {n: 12 * k for n, k in zip(expected, layers.values(), strict=True)}
    [on_the_way] = (run / "loras").iterdir()
    assert PlainLoRA.load(on_the_way / "pytorch_lora_weights.safetensors").text_encoders.keys() == layers.keys()

    shown = PictureGenerator([tmp_path, base])
    for how in ("unmerged", approach):
        request = DrawRequest("red", steps=2, seed=42, guidance=7.5, approach=how)
        found, _ = shown.draw_adapted(read_run(run), 2, DrawJob(request, lambda *_: None, threading.Event()))
        assert np.abs(np.asarray(found, dtype=int) - picture(run, how)).max() <= 2

    command = parse([str(run), str(tmp_path / "later.safetensors"), "--merge", "--calibrate", "--precision", "float32"])
    assert isinstance(command, Conversion)
    convert(command)
    one, two = (PlainLoRA.load(file) for file in (run / "pytorch_lora_weights.safetensors", command.target))
    assert one.components.keys() == two.components.keys()
    for component, own in one.components.items():
        for name, block in own.items():
            missed = (two.components[component][name].delta_weight() - block.delta_weight()).norm()
            assert missed <= 1e-2 * block.norm(), (component, name)


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_straight_run(train_only, folders, tmp_path, family):
    flags: tuple[object, ...] = (
        *DROPOUT,
        "--text_encoder_lr",
        3e-2,
        "--max_train_steps",
        2,
        "--checkpointing_steps",
        1,
    )
    straight = train_only(*flags, output="straight", model=folders / family)
    shutil.copytree(straight, tmp_path / "resumed")
    again = ("--resume_from_checkpoint", "checkpoint-1")
    resumed = train_only(*flags, *again, output="resumed", model=folders / family)
    assert losses(straight) == losses(resumed) and len(losses(straight)) == 2
    files = sorted(path.name for path in (straight / "checkpoint-2").glob("reslora_adapter*"))
    assert files == sorted((ADAPTER_FILE, *TEXT_ADAPTERS.values())[: 2 if family == "sd1" else 3])
    for name in files:
        one, two = (load_tensors(run / "checkpoint-2" / name)[0] for run in (straight, resumed))
        assert all(torch.equal(one[key], two[key]) for key in one)
    first = [load_tensors(straight / "checkpoint-1" / name)[0] for name in (ADAPTER_FILE, files[1])]
    moved = [max(float(value.abs().max()) for key, value in one.items() if key.endswith(".B")) for one in first]
    assert moved == pytest.approx([1e-2, 3e-2], rel=1e-2)  # AdamW's first step is as long as its rate


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_lora_of_both_starts_both(train_only, folders, tmp_path, family):
    """At step 0 the model is that LoRA: exactly by method lora, closely by one whose paths add to it."""
    parts = load_parts(folders / family)
    method = parse_settings(["--train_text_encoder", "--rank", "4", "--method", "lora"])
    adapters = add_adapters(parts, method)
    for adapter in adapters.by_component.values():
        move_away_from_zero(adapter, std=0.1)
    adapters.merge("exact").save_diffusers(tmp_path / "both.safetensors", unet_config=dict(parts.unet.config))
    words = ("--train_text_encoder", "--resolution", 16, "--max_train_steps", 1, "--init_lora")
    for name, least, most in (("lora", 0, 1e-5), ("reslora_is", 1e-5, 0.9)):
        flags = (*words, tmp_path / "both.safetensors", "--method", name)
        run = train_only(*flags, output=name, model=folders / family)
        said = json.loads((run / "run.json").read_text())["init_lora"]
        assert not said["missing"] and not said["left_out"]
        assert sum(name.startswith("text_encoder.") for name in said["blocks"]) == 4 * (2 if family == "sd1" else 1)
        assert least <= said["drift"] < most
    with pytest.raises(ValueError, match=r"no block for .* text_encoder\..*--init_lora_partial"):
        train_only(*words[1:], tmp_path / "both.safetensors", output="other", model=folders / family)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_gradient_checkpointing_changes_nothing(train_only, folders, family):
    flags: tuple[object, ...] = (*DROPOUT, "--max_train_steps", 3)
    plain = train_only(*flags, output="plain", model=folders / family)
    again = train_only(*flags, "--gradient_checkpointing", output="again", model=folders / family)
    assert losses(plain) == pytest.approx(losses(again), rel=1e-5) and len(losses(plain)) == 3


@pytest.mark.slow
def test_half_weights_train_in_float32_adapters(train, folders):
    flags: tuple[object, ...] = (*DROPOUT, "--mixed_precision", "bf16", "--max_train_steps", 2)
    run = train(*flags, "--calibration_samples", 2, model=folders / "sdxl")
    stored = [load_tensors(run / name)[0] for name in (ADAPTER_FILE, *TEXT_ADAPTERS.values())]
    assert {value.dtype for one in stored for value in one.values()} == {torch.float32}
    assert all(value.any() for one in stored for value in one.values())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--text_encoder_lr 1e-4", "--text_encoder_lr is given, but no text encoder is trained"),
        ("--train_text_encoder --text_encoder_lr 0", "--text_encoder_lr is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, words):
    with pytest.raises((ValueError, SystemExit), match=words):
        parse_settings(flags.split())


def test_an_adapter_without_its_run_is_merged_with_its_text_encoders_and_by_its_base_alone(folders, tmp_path):
    settings = parse_settings(["--train_text_encoder", "--rank", "2", "--method", "reslora_bs"])
    parts = load_parts(folders / "sdxl")
    adapters = add_adapters(parts, settings)
    for adapter in adapters.by_component.values():
        move_away_from_zero(adapter)
    adapters.save(tmp_path)
    file = tmp_path / ADAPTER_FILE
    command = parse([str(file), str(tmp_path / "out.safetensors"), "--merge", "--base", str(folders / "sdxl")])
    assert isinstance(command, Conversion)
    convert(command)
    found, wanted = PlainLoRA.load(command.target), adapters.merge("exact")
    assert found.components.keys() == wanted.components.keys() and len(found.components) == 3
    for component, blocks in wanted.components.items():
        for name, block in blocks.items():
            torch.testing.assert_close(
                found.components[component][name].delta_weight(), block.delta_weight(), rtol=1e-2, atol=1e-3
            )
    with pytest.raises(ValueError, match=r"text_encoder_2.safetensors is of a text encoder that .* doesn't have"):
        load_adapters(load_parts(folders / "sd1"), file)


@pytest.mark.parametrize("spelled", [in_files, lambda name: name.removeprefix("text_model.")])
def test_training_forms_are_read_whatever_transformers_calls_the_modules(folders, tmp_path, spelled):
    settings = parse_settings(["--train_text_encoder", "--rank", "2", "--method", "reslora_frozen"])
    adapters = add_adapters(load_parts(folders / "sdxl"), settings)
    for adapter in adapters.by_component.values():
        move_away_from_zero(adapter)
    adapters.save(tmp_path)
    for component in adapters.text:
        file = tmp_path / TEXT_ADAPTERS[component]
        stored, config = read_training_form(file)
        assert all(name.startswith("text_model.encoder.") for name in stored)
        write_training_form(file, {spelled(name): value for name, value in stored.items()}, config)
    loaded = load_adapters(load_parts(folders / "sdxl"), tmp_path / ADAPTER_FILE)
    for component, adapter in loaded.by_component.items():
        before = adapters.by_component[component].state_dict()
        assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())
    for adapter in loaded.by_component.values():
        move_away_from_zero(adapter, seed=5)
    loaded.load(tmp_path)
    again = loaded.text["text_encoder"].state_dict()
    assert all(torch.equal(again[name], value) for name, value in adapters.text["text_encoder"].state_dict().items())


def test_every_process_starts_from_the_first_ones_text_encoders(folders, monkeypatch):
    settings = parse_settings(["--train_text_encoder", "--rank", "2", "--method", "reslora_frozen", "--init_lora", "x"])
    one, other = (add_adapters(load_parts(folders / "sd1"), settings) for _ in range(2))
    for number, adapters in enumerate((one, other)):
        for adapter in adapters.by_component.values():
            for members in mapped_blocks(adapter.blocks, adapter.config).values():
                share_map(members, torch.full((members[0].lora_A.shape[1],) * 2, float(number)))
            move_away_from_zero(adapter, seed=number)
    before = other.unet.state_dict()
    text = one.text["text_encoder"]
    sent = iter(value.data for _, value in (*text.named_parameters(), *text.named_maps()) if value is not None)
    monkeypatch.setattr("reslora_sd.diffusion.adapters.broadcast", lambda value: next(sent))
    monkeypatch.setattr("reslora_sd.diffusion.starting.measure_paths", lambda *_: {})
    nothing: Any = None
    Start().into(other, nothing, nothing, 0)
    expected = text.state_dict()
    assert any(name.endswith("lora_M") for name in expected) and next(sent, None) is None
    assert all(torch.equal(value, expected[name]) for name, value in other.text["text_encoder"].state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in other.unet.state_dict().items())


def test_processes_that_share_one_model_out_do_not_train_text_encoders(folders):
    settings = parse_settings(["--train_text_encoder"])
    with pytest.raises(ValueError, match="--train_text_encoder under DEEPSPEED"):
        add_adapters(load_parts(folders / "sd1"), settings, "DEEPSPEED")
