"""What files say of themselves, as other tools read it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from reslora_sd import PlainLoRA
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.files.lora_metadata import family_of
from tests import unets

SITE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
MUST = ("sai_model_spec", "architecture", "implementation", "title", "resolution")
"""Of `modelspec.`, as kohya-ss/sd-scripts has it in library/sai_model_spec.py."""


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def listed_under(metadata):
    """A1111's rule, in our words: extensions-builtin/Lora/network.py."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if metadata.get("ss_v2") == "True" else "SD1"


@pytest.mark.parametrize(
    ("config", "kind", "place", "version", "architecture", "resolution"),
    [
        (unets.SD1, "epsilon", "SD1", "sd_v1", "stable-diffusion-v1/lora", "512x512"),
        ({**unets.SD2, "sample_size": 64}, "epsilon", "SD2", "sd_v2", "stable-diffusion-v2-512/lora", "512x512"),
        (unets.SD2, "v", "SD2", "sd_v2", "stable-diffusion-v2-768-v/lora", "768x768"),
        (unets.SDXL, "epsilon", "SDXL", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "1024x1024"),
    ],
)
def test_files_are_listed_under_their_model(tmp_path, config, kind, place, version, architecture, resolution):
    text, width = config["cross_attention_dim"], 1280
    plain = PlainLoRA({SITE: PlainBlock(torch.ones(4, text), torch.ones(width, 4), 1.5)})
    for given in (unets.weightless(config).config, None):
        details = {} if given else {"modelspec.prediction_type": kind}
        for path in (
            plain.save_diffusers(tmp_path, unet_config=given, **details),
            plain.save_kohya(tmp_path / "k.safetensors", unet_config=given, **details),
        ):
            found = metadata_of(path)
            assert listed_under(found) == place and found["ss_base_model_version"] == version
            assert found["ss_v2"] == str(place == "SD2")
            assert found["modelspec.architecture"] == architecture and found["modelspec.resolution"] == resolution
            assert all(found[f"modelspec.{name}"] for name in MUST)
            assert found["reslora_lora_alpha"] == "6"


def test_the_prediction_type_tells_the_two_of_sd_2_apart_and_else_the_size():
    for size, kind, architecture in (
        (96, "epsilon", "512"),
        (64, "v_prediction", "768-v"),
        (96, None, "768-v"),
        (64, None, "512"),
    ):
        config = {**unets.SD2, "sample_size": size}
        assert family_of(config, kind).architecture == f"stable-diffusion-v2-{architecture}"


@pytest.mark.parametrize(
    "config",
    [
        {**unets.SMALL_SD1, "cross_attention_dim": 768},
        {**unets.SD1, "cross_attention_dim": 512},
        {**unets.SDXL, "projection_class_embeddings_input_dim": 2560},
        {**unets.SDXL, "cross_attention_dim": 768},
    ],
)
def test_a_model_of_no_family_is_called_custom(tmp_path, config):
    plain = PlainLoRA({SITE: PlainBlock(torch.ones(4, 24), torch.ones(32, 4), 1.5)})
    for given in (config, None):
        found = metadata_of(plain.save_diffusers(tmp_path, unet_config=given))
        assert found["ss_base_model_version"] == "custom" and "ss_v2" not in found
        assert found["modelspec.architecture"] == "stable-diffusion/lora"


def test_hashes_are_those_that_tools_compute_themselves(tmp_path):
    plain = PlainLoRA({SITE: PlainBlock(torch.randn(64, 768), torch.randn(1280, 64), 0.5)})
    for path in (
        plain.save_kohya(tmp_path / "k.safetensors", "fp16", ss_output_name="rex"),
        plain.save_diffusers(tmp_path, "float32", ss_output_name="rex"),
    ):
        data, found = Path(path).read_bytes(), metadata_of(path)
        whole = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
        assert found["sshs_model_hash"] == whole and found["modelspec.hash_sha256"] == f"0x{whole}"
        alone = save(load_file(path), {name: value for name, value in found.items() if name.startswith("ss_")})
        assert found["sshs_legacy_hash"] == hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]


def test_details_win_and_names_that_are_no_unicode_dont_stop_the_file(tmp_path):
    plain = PlainLoRA({SITE: PlainBlock(torch.ones(4, 24), torch.ones(32, 4), 1.5)})
    found = metadata_of(plain.save_diffusers(tmp_path, ss_base_model_version="mine", ss_output_name="a\udcff"))
    assert found["ss_base_model_version"] == "mine" and found["ss_output_name"] == "a?"
    assert json.loads(found["lora_adapter_metadata"])["unet.r"] == 4
