"""A run's adapter merged after the run, without training again."""

import json
import shutil

import pytest
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from reslora_sd import ResLoRAConfig, add_reslora, load_reslora, merge
from reslora_sd.files.reading import read_lora
from tests.unets import move_away_from_zero, small_unet

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, block in expected.items():
        difference = (found[name].delta_weight() - block.delta_weight()).norm()
        assert float(difference) <= tolerance * block.norm(), name


def test_a_run_is_merged_as_it_would_have_merged_itself(train, run, tmp_path, tiny_pipeline_folder):
    folder = train(
        *("--method", "reslora_ms", "--save_precision", "float32"),
        *("--max_train_steps", 2, "--checkpointing_steps", 1, "--report", "false"),
    )
    own = read_lora(folder).blocks()

    said = run(folder, tmp_path / "best", "--merge", "--calibrate")
    assert_same(read_lora(tmp_path / "best").blocks(), own)
    report = json.loads((folder / "merge_report.json").read_text())
    largest = max(block["error"] for block in report["blocks"].values())
    assert said[0] == f"Merged by least_squares; a branch's output is off by at most {largest:.2%}."

    run(folder / "reslora_adapter.safetensors", tmp_path / "w.safetensors", "--merge", "weights")
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_folder, subfolder="unet")
    adapter = load_reslora(unet, folder / "reslora_adapter.safetensors")
    assert_same(read_lora(tmp_path / "w.safetensors").blocks(), merge(adapter, "weights").blocks)
    file = read_lora(tmp_path / "w.safetensors")
    assert file.origin.config == adapter.config and file.origin.approach == "weights"
    with safe_open(tmp_path / "w.safetensors", "pt") as opened:
        assert opened.metadata()["modelspec.title"] == folder.name

    run(folder / "checkpoint-1", tmp_path / "c.safetensors", "--merge", "none", "--to", "kohya")
    before = load_reslora(UNet2DConditionModel.from_pretrained(tiny_pipeline_folder, subfolder="unet"), *early(folder))
    assert_same(read_lora(tmp_path / "c.safetensors").blocks(), merge(before, "none").blocks)

    run(folder, tmp_path / "i.safetensors", "--merge", "input", "--calibrate", "--calibration_samples", 2)
    assert read_lora(tmp_path / "i.safetensors").origin.approach == "input"
    with pytest.raises(ValueError, match=r"'least_squares' needs statistics .* --calibrate.*none, weights"):
        run(folder, tmp_path / "x", "--merge", "least_squares")
    with pytest.raises(ValueError, match="approach 'exact' doesn't fit"):
        run(folder, tmp_path / "x", "--merge", "exact")
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(folder / "reslora_adapter.safetensors", moved / "mine.safetensors")
    with pytest.raises(ValueError, match=r"there is no run\.json beside .*--base"):
        run(moved / "mine.safetensors", tmp_path / "x", "--merge", "none")
    run(moved / "mine.safetensors", tmp_path / "y", "--merge", "none", "--base", tiny_pipeline_folder)
    assert_same(read_lora(tmp_path / "y").blocks(), merge(adapter, "none").blocks)
    with pytest.raises(ValueError, match=r"no run\.json beside .*--calibrate can't know"):
        words = ("--merge", "--base", tiny_pipeline_folder, "--calibrate")
        run(moved / "mine.safetensors", tmp_path / "x", *words)
    with pytest.raises(ValueError, match=r"Cannot read the U-Net of .*--base"):
        run(moved / "mine.safetensors", tmp_path / "x", "--merge", "none", "--base", moved)
    assert not (tmp_path / "x").exists()


def test_frozen_paths_are_merged_exactly_from_the_training_form_and_base_alone(run, tmp_path, tiny_pipeline_folder):
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_folder, subfolder="unet")
    adapter = add_reslora(unet, ResLoRAConfig(residual="frozen", r=2))
    move_away_from_zero(adapter)
    adapter.save(tmp_path / "a.safetensors")
    words = ("--merge", "--base", tiny_pipeline_folder)
    said = run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", *words)
    assert said[0] == "Merged by exact; a branch's output is off by at most 0.00%."
    assert_same(read_lora(tmp_path / "b.safetensors").blocks(), merge(adapter).blocks)


def early(folder):
    return [folder / "checkpoint-1" / "reslora_adapter.safetensors"]


def test_what_holds_no_adapter_is_told(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no reslora_adapter\.safetensors in .*--merge takes a run"):
        run(tmp_path, tmp_path / "x", "--merge")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing"):
        run(tmp_path / "nothing", tmp_path / "x", "--merge")


def test_the_included_model_is_found_wherever_it_was(run, tmp_path):
    adapter = add_reslora(small_unet(), ResLoRAConfig(residual="none", r=2))
    adapter.save(tmp_path / "reslora_adapter.safetensors")
    elsewhere = "/elsewhere/site-packages/reslora_sd/assets/tiny-sd"
    (tmp_path / "run.json").write_text(json.dumps({"method": "lora", "base_model": elsewhere}))
    with pytest.raises(ValueError, match="belongs to another model or other settings"):  # so it was read
        run(tmp_path, tmp_path / "x", "--merge")
    (tmp_path / "run.json").write_text(json.dumps({"method": "lora", "base_model": "/elsewhere"}))
    with pytest.raises(ValueError, match="Cannot read the U-Net of '/elsewhere'"):
        run(tmp_path, tmp_path / "x", "--merge")


@pytest.mark.parametrize("text", [False, True])
def test_a_run_whose_model_needed_model_config_is_read_with_it(run, tmp_path, monkeypatch, text):
    adapter = add_reslora(small_unet(), ResLoRAConfig(residual="none", r=2))
    for name in ("reslora_adapter.safetensors", *(["reslora_adapter.text_encoder.safetensors"] if text else [])):
        adapter.save(tmp_path / name)
    said = {"method": "lora", "base_model": "m.safetensors", "arguments": {"model_config": "sizes", "variant": "fp16"}}
    (tmp_path / "run.json").write_text(json.dumps(said))
    asked = []

    def load(name, **how):
        asked.append((name, how["model_config"], how["variant"]))
        raise KeyError("conv_in")

    monkeypatch.setattr(f"reslora_sd.diffusion.models.{'load_parts' if text else 'load_unet'}", load)
    what = "models" if text else "U-Net"
    with pytest.raises(ValueError, match=rf"Cannot read the {what} of 'm\.safetensors' \(.*conv_in.*\)\. .*--base"):
        run(tmp_path, tmp_path / "x", "--merge")
    with pytest.raises(ValueError, match="Cannot read"):
        run(tmp_path, tmp_path / "x", "--merge", "--model_config", "others")
    with pytest.raises(ValueError, match="Cannot read"):
        run(tmp_path, tmp_path / "x", "--merge", "--base", "b.safetensors")
    assert asked == [
        ("m.safetensors", "sizes", "fp16"),
        ("m.safetensors", "others", "fp16"),
        ("b.safetensors", None, None),
    ]


def test_exact_merges_need_no_data_and_can_be_cut(run, tmp_path, tiny_pipeline_folder):
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_folder, subfolder="unet")
    adapter = add_reslora(unet, ResLoRAConfig(residual="block", r=4, lora_alpha=6))
    move_away_from_zero(adapter, std=0.1)
    adapter.save(tmp_path / "a.safetensors")
    expected = merge(adapter)
    words = ("--merge", "--base", tiny_pipeline_folder)
    run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", *words)
    assert_same(read_lora(tmp_path / "b.safetensors").blocks(), expected.blocks)
    said = run(tmp_path / "a.safetensors", tmp_path / "c.safetensors", *words, "--rank", 4)
    cut = read_lora(tmp_path / "c.safetensors").blocks()
    assert {block.r for block in cut.values()} == {4} and max(block.r for block in expected.blocks.values()) == 12
    assert_same(cut, merge(adapter, rank=4).blocks, 1e-4)
    assert "Merged by exact" in said[0] and "Cut to rank 4" in said[1]


def test_a_runs_own_reading_of_eq_13_is_kept(train, run, tmp_path):
    folder = train(
        *("--method", "reslora_ms", "--merge_approach", "weights", "--alpha_from", "inputs", "--max_train_steps", 2),
        *("--save_precision", "float32", "--report", "false"),
    )
    run(folder, tmp_path / "again", "--merge", "weights", "--calibrate")
    assert_same(read_lora(tmp_path / "again").blocks(), read_lora(folder).blocks())
    with pytest.raises(ValueError, match=r"'weights' needs statistics .* --calibrate.*: none\."):
        run(folder, tmp_path / "x", "--merge", "weights")
