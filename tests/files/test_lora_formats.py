"""Exported files in the hands of those who never heard of this package."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from tests.unets import inputs_for, move_away_from_zero, small_unet


def trained(unet, residual, **settings):
    adapter = add_reslora(unet.eval(), ResLoRAConfig(residual=residual, r=4, lora_alpha=6, **settings))
    move_away_from_zero(adapter, std=0.1)
    batches = [inputs_for(unet, seed=seed) for seed in range(20, 24)]
    return adapter, collect_statistics(adapter, batches, lambda batch: unet(**batch))


def output(unet):
    with torch.no_grad():
        return unet.eval()(**inputs_for(unet)).sample


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("residual", ["none", "input", "block", "middle"])
def test_a_plain_pipeline_loads_the_file(residual, form, tmp_path, tiny_pipeline_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    adapter, statistics = trained(pipeline.unet, residual)
    unmerged = output(pipeline.unet)
    plain = merge(adapter, None, statistics)
    adapter.remove()
    path = plain.save_diffusers(tmp_path) if form == "diffusers" else plain.save_kohya(tmp_path / "k.safetensors")
    pipeline.load_lora_weights(path)
    loaded = output(pipeline.unet)
    pipeline.unload_lora_weights()
    plain.fuse_into(pipeline.unet)
    torch.testing.assert_close(loaded, output(pipeline.unet), rtol=1e-4, atol=1e-4)
    if residual in ("none", "block"):
        assert (loaded - unmerged).abs().max() < 1e-4


def test_a_process_without_this_package_gets_the_unmerged_output(tmp_path, tiny_pipeline_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    adapter, _ = trained(pipeline.unet, "block")
    merge(adapter).save_diffusers(tmp_path)
    inputs = inputs_for(pipeline.unet)
    torch.save({"inputs": inputs, "unmerged": output(pipeline.unet)}, tmp_path / "case.pt")
    code = f"""
import sys, torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(tiny_pipeline_folder)!r})
pipeline.load_lora_weights({str(tmp_path)!r})
case = torch.load({str(tmp_path / "case.pt")!r})
with torch.no_grad():
    difference = (pipeline.unet.eval()(**case["inputs"]).sample - case["unmerged"]).abs().max()
assert not any(name.startswith("reslora") for name in sys.modules)
print(float(difference))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert float(done.stdout) < 1e-4


@pytest.mark.parametrize("residual", ["input", "block"])
def test_peft_loads_its_form(residual, tmp_path):
    unet = small_unet()
    adapter, statistics = trained(unet, residual)
    plain = merge(adapter, None, statistics)
    adapter.remove()
    plain.save_peft(tmp_path)
    loaded = output(PeftModel.from_pretrained(small_unet(), tmp_path))
    plain.fuse_into(unet)
    torch.testing.assert_close(loaded, output(unet), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["diffusers", "kohya", "peft"])
@pytest.mark.parametrize("residual", ["none", "block"])
def test_reading_back_gives_the_same_lora(residual, form, tmp_path):
    adapter, _ = trained(small_unet(), residual)
    plain = merge(adapter)
    save = {"diffusers": plain.save_diffusers, "kohya": plain.save_kohya, "peft": plain.save_peft}[form]
    again = PlainLoRA.load(save(tmp_path / ("k.safetensors" if form == "kohya" else "lora")))
    assert list(again.blocks) == sorted(plain.blocks) or set(again.blocks) == set(plain.blocks)
    for name, block in plain.blocks.items():
        torch.testing.assert_close(again.blocks[name].delta_weight(), block.delta_weight())
        assert block.norm() == pytest.approx(float(block.delta_weight().double().norm()), rel=1e-5)
    if form != "peft":
        assert again.config == adapter.config and again.approach == plain.approach


def test_keys_and_metadata_are_what_tools_look_for(tmp_path):
    adapter, _ = trained(small_unet(), "none", target_modules=("attn1.to_q",))
    plain = merge(adapter)
    path = plain.save_diffusers(tmp_path, ss_base_model_version="sd_v1")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    site = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert {f"unet.{site}.lora_A.weight", f"unet.{site}.lora_B.weight"} < set(load_file(path))
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert settings["unet.r"] == 4 and settings["unet.lora_alpha"] == 6
    assert metadata["ss_network_dim"] == "4" and metadata["ss_network_alpha"] == "6"
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["modelspec.architecture"]
    assert ResLoRAConfig.from_json(metadata["reslora_config"]) == adapter.config
    kohya = load_file(plain.save_kohya(tmp_path / "k.safetensors"))
    stem = "lora_unet_" + site.replace(".", "_")
    assert {f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"} < set(kohya)
    assert float(kohya[f"{stem}.alpha"]) == 6


def test_files_that_are_no_plain_lora_are_told(tmp_path):
    adapter, _ = trained(small_unet(), "none")
    tensors = load_file(merge(adapter).save_diffusers(tmp_path))
    mixed = tmp_path / "mixed.safetensors"
    save_file({**tensors, "lora_unet_x.alpha": torch.ones(())}, mixed)
    with pytest.raises(ValueError, match="lora_unet_x"):
        PlainLoRA.load(mixed)
    half = tmp_path / "half.safetensors"
    save_file({name: value for name, value in tensors.items() if not name.endswith("mid_block.lora_B.weight")}, half)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, half)
    with pytest.raises(ValueError, match="lacks unet"):
        PlainLoRA.load(half)
    adapter.save(tmp_path / "training.safetensors")
    with pytest.raises(ValueError, match="no LoRA of a U-Net"):
        PlainLoRA.load(tmp_path / "training.safetensors")
    with pytest.raises(FileNotFoundError):
        PlainLoRA.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="safetensors"):
        merge(adapter).save_kohya(tmp_path / "folder")
