"""What reslora-convert inspect says of a file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.convert.__main__ import main
from reslora_sd.convert.inspecting import as_table, inspect
from reslora_sd.convert.settings import parse
from tests.lora_files import kohya_deltas, kohya_file
from tests.toys import TARGETS, toy


def test_a_kohya_files_parts_ranks_alphas_and_norms(tmp_path):
    tensors = kohya_file("sd1", alpha=2.0)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "ss_long": "x" * 500, "ss_bad": "\x1b[31mred\n"})
    found = inspect(path)
    assert found["kind"] == "LoRA" and found["form"] == "kohya" and found["precision"] == ["fp16"]
    assert found["model"] == "sd_v1" and found["method"] is None and found["bytes"] == path.stat().st_size
    unet, text = found["components"]["unet"], found["components"]["text_encoder"]
    assert unet["modules"] == 192 and unet["ranks"] == {"4": 192} and unet["alphas"] == {"2": 192}
    assert unet["kinds"] == {"cross-attention": 64, "feed-forward": 32, "projection": 32, "self-attention": 64}
    assert text["kinds"] == {"feed-forward": 24, "self-attention": 48}
    deltas = kohya_deltas(tensors)
    for group, start in (("down_blocks.1", "lora_unet_down_blocks_1_"), ("mid_block", "lora_unet_mid_block_")):
        norm = torch.stack([delta.norm() for stem, delta in deltas.items() if stem.startswith(start)]).norm()
        assert unet["groups"][group]["norm"] == pytest.approx(float(norm), rel=1e-5)
    assert list(text["groups"]) == ["layers 0 to 3", "layers 4 to 7", "layers 8 to 11"]

    table = as_table(found)
    assert "a LoRA in kohya form" in table and "\x1b" not in table and "\\x1b[31mred\\n" in table
    assert "(500 characters)" in table and "x" * 101 not in table
    row = next(line for line in table.splitlines() if line.startswith("unet"))
    assert row.split()[1:4] == ["192", "4", "2"]


def test_json_is_all_of_it(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    save_file(kohya_file("sdxl"), path, {"a": "b"})
    main(parse(["inspect", str(path), "--json"]))
    found = json.loads(capsys.readouterr().out)
    assert found == inspect(path) and found["form"] == "sai" and found["metadata"] == {"a": "b"}
    assert found["model"] == "stable-diffusion-xl (by its layers)"
    main(parse(["inspect", str(path)]))
    assert capsys.readouterr().out.strip() == as_table(inspect(path))


def test_a_training_form_is_told_with_its_settings(tmp_path):
    config = ResLoRAConfig(residual="middle", r=2, target_modules=TARGETS)
    add_reslora(toy(), config).save(tmp_path / "a.safetensors")
    found = inspect(tmp_path / "a.safetensors")
    assert found["kind"].startswith("ResLoRA training form") and found["modules"] == 16
    assert found["settings"]["method"] == "reslora_ms" and found["settings"]["r"] == 2
    assert "residual: middle" in as_table(found)
    json.dumps(found)


def test_what_it_is_not_is_told(tmp_path):
    save_file({"lora_unet_conv_in.hada_w1_a": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="which is LoHa"):
        inspect(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        inspect(tmp_path / "b.safetensors")
