"""Exported files in the hands of those who never heard of this package."""

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoHaConfig, LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.blocks.plain import PlainBlock
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
    save: dict[str, Callable[..., str]] = {
        "diffusers": plain.save_diffusers,
        "kohya": plain.save_kohya,
        "peft": plain.save_peft,
    }
    again = PlainLoRA.load(save[form](tmp_path / ("k.safetensors" if form == "kohya" else "lora")))
    assert again.blocks.keys() == plain.blocks.keys()
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
    assert settings["unet.r"] == settings["unet.lora_alpha"] == 4  # the scale is in lora_B
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "4" and metadata["reslora_lora_alpha"] == "6"
    assert (
        metadata["ss_base_model_version"] == "sd_v1" and metadata["modelspec.architecture"] == "stable-diffusion/lora"
    )
    assert ResLoRAConfig.from_json(metadata["reslora_config"]) == adapter.config
    kohya = load_file(plain.save_kohya(tmp_path / "k.safetensors"))
    stem = "lora_unet_" + site.replace(".", "_")
    assert {f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"} < set(kohya)
    assert float(kohya[f"{stem}.alpha"]) == 4


def test_files_that_are_no_plain_lora_are_told(tmp_path):
    adapter, _ = trained(small_unet(), "none")
    tensors = load_file(merge(adapter).save_diffusers(tmp_path))
    mixed = tmp_path / "mixed.safetensors"
    save_file({**tensors, "lora_unet_x.alpha": torch.ones(())}, mixed)
    with pytest.raises(ValueError, match="lora_unet_x"):
        PlainLoRA.load(mixed)
    for matrix in ("lora_A", "lora_B"):
        gone = next(name for name in tensors if matrix in name and name.startswith("unet.mid_block"))
        save_file({name: value for name, value in tensors.items() if name != gone}, tmp_path / "half.safetensors")
        with pytest.raises(ValueError, match=f"half.safetensors lacks {re.escape(gone)}"):
            PlainLoRA.load(tmp_path / "half.safetensors")
    adapter.save(tmp_path / "training.safetensors")
    with pytest.raises(ValueError, match=r"ResLoRA's training form.*reslora-convert IN OUT --merge"):
        PlainLoRA.load(tmp_path / "training.safetensors")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing"):
        PlainLoRA.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="safetensors"):
        merge(adapter).save_kohya(tmp_path / "folder")


SITE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
STEM = "lora_unet_" + SITE.replace(".", "_")


def pair(down, up):
    torch.manual_seed(0)
    return {down: torch.randn(4, 8), up: torch.randn(8, 4)}


def kohya_pair(stem=STEM, alpha=None):
    scale = {} if alpha is None else {f"{stem}.alpha": torch.tensor(alpha)}
    return {**pair(f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"), **scale}


def load_of(tmp_path, tensors, metadata=None):
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    return PlainLoRA.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("alpha", "scaling"), [(None, 1.0), (2.0, 0.5)])
def test_others_kohya_files_are_read_by_their_alphas(tmp_path, alpha, scaling):
    plain = load_of(tmp_path, kohya_pair(alpha=alpha))
    assert list(plain.blocks) == [SITE] and plain.blocks[SITE].scaling == scaling
    assert plain.config is None and plain.approach == "none"


def test_kohya_names_of_every_part_of_a_unet_come_back_as_paths(tmp_path):
    names = [
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_out.0",
        "up_blocks.1.attentions.0.transformer_blocks.3.ff.net.0.proj",
        "up_blocks.3.attentions.2.proj_in",
        SITE,
    ]
    tensors = {}
    for name in names:
        tensors.update(kohya_pair("lora_unet_" + name.replace(".", "_")))
    assert sorted(load_of(tmp_path, tensors).blocks) == sorted(names)


def test_ranks_and_scales_that_differ_survive_kohyas_single_alpha(tmp_path):
    torch.manual_seed(0)
    names = [f"down_blocks.0.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in range(3)]
    ranks, scalings = (2, 4, 4), (3.0, 1.5, 0.25)
    sizes = zip(names, ranks, scalings, strict=True)
    plain = PlainLoRA({name: PlainBlock(torch.randn(r, 8), torch.randn(8, r), s) for name, r, s in sizes})
    for path in (
        plain.save_kohya(tmp_path / "k.safetensors"),
        plain.save_diffusers(tmp_path),
        plain.save_peft(tmp_path / "p"),
    ):
        again = PlainLoRA.load(path)
        assert {name: block.r for name, block in again.blocks.items()} == dict(zip(names, ranks, strict=True))
        for name, block in plain.blocks.items():
            torch.testing.assert_close(again.blocks[name].delta_weight(), block.delta_weight())
    alphas = {float(value) for name, value in load_file(tmp_path / "k.safetensors").items() if name.endswith(".alpha")}
    assert alphas == {4.0}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({**kohya_pair(), f"{STEM}.dora_scale": torch.ones(8)}, "dora_scale', which is DoRA"),
        (kohya_pair("lora_unet_input_blocks_4_1_somewhere"), "somewhere.*no part of a plain LoRA"),
        ({f"{STEM}.alpha": torch.tensor(1.0)}, r"lacks .*lora_down\.weight"),
        ({**kohya_pair(), "lora_te_text_model.alpha": torch.tensor(1.0)}, "lora_te_text_model"),
        (
            {**pair(f"unet.{SITE}.lora_A.weight", f"unet.{SITE}.lora_B.weight"), f"unet.{SITE}.lora_x": torch.ones(1)},
            "lora_x.*another kind of adapter",
        ),
    ],
    ids=["dora", "no module", "alpha alone", "text encoder", "unknown"],
)
def test_what_would_be_lost_is_refused(tmp_path, tensors, words):
    with pytest.raises(ValueError, match=words):
        load_of(tmp_path, tensors)


def test_diffusers_older_names_are_read(tmp_path):
    site = SITE.replace(".to_q", ".processor.to_q_lora")
    plain = load_of(tmp_path, pair(f"unet.{site}.down.weight", f"unet.{site}.up.weight"))
    assert list(plain.blocks) == [SITE] and plain.blocks[SITE].scaling == 1.0


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({}, 6 / 4),
        ({"alpha_pattern": {"to_q": 2}}, 2 / 4),  # PEFT's patterns match the end of a path
        ({"alpha_pattern": {"to_k": 2}}, 6 / 4),
        ({"use_rslora": True}, 6 / 2),
    ],
)
def test_pefts_settings_are_read_as_peft_reads_them(tmp_path, settings, scaling):
    prefix = f"base_model.model.{SITE}"
    save_file(pair(f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"), tmp_path / "adapter_model.safetensors")
    LoraConfig(r=4, lora_alpha=6, target_modules=["to_q"], **settings).save_pretrained(tmp_path)
    assert PlainLoRA.load(tmp_path).blocks[SITE].scaling == scaling


def test_another_kind_of_adapter_of_peft_is_refused(tmp_path):
    prefix = f"base_model.model.{SITE}"
    save_file(pair(f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"), tmp_path / "adapter_model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json"):
        PlainLoRA.load(tmp_path)
    LoHaConfig(r=4, target_modules=["to_q"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a LoHa adapter"):
        PlainLoRA.load(tmp_path)


def test_a_folder_with_two_loras_asks_for_the_file(tmp_path):
    plain = merge(trained(small_unet(), "none")[0])
    plain.save_diffusers(tmp_path)
    plain.save_peft(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"pytorch_lora_weights.* and adapter_model.*Name the file itself"):
        PlainLoRA.load(tmp_path)


def plain():
    block = PlainBlock(torch.ones(2, 8), torch.ones(8, 2), 1.0)
    return PlainLoRA({"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": block})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lora_adapter_metadata": "["}, "JSONDecodeError"),
        ({"lora_adapter_metadata": "[1]"}, "no table"),
        ({"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": "much"}'}, "'much', which is no finite number"),
        ({"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1e999}'}, "lora_alpha is inf"),
        ({"lora_adapter_metadata": '{"unet.r": 2, "unet.alpha_pattern": {"(": 1}}'}, "no pattern"),
        ({"reslora_config": "[" * 100_000}, "not JSON"),
    ],
)
def test_damaged_metadata_is_told_with_the_files_name(tmp_path, metadata, words):
    file = plain().save_diffusers(tmp_path)
    save_file(load_file(file), file, metadata)
    with pytest.raises(ValueError, match=rf"pytorch_lora_weights\.safetensors: no whole LoRA .*{words}"):
        PlainLoRA.load(file)


@pytest.mark.parametrize("bad", [torch.full((8, 2), float("nan")), torch.ones(8, 2, 1, 1), torch.ones(8, 3)])
def test_damaged_matrices_are_told_with_the_files_name(tmp_path, bad):
    file = plain().save_diffusers(tmp_path)
    save_file({name: bad if "lora_B" in name else value for name, value in load_file(file).items()}, file)
    with pytest.raises(ValueError, match=r"pytorch_lora_weights\.safetensors (holds NaN|is no plain LoRA)"):
        PlainLoRA.load(file)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", "{}", '{"peft_type": "LORA", "lora_alpha": []}'])
def test_a_damaged_adapter_config_is_told_by_its_name(tmp_path, content):
    plain().save_peft(tmp_path)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        PlainLoRA.load(tmp_path)
