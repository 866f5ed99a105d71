from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from reslora_sd.files.lora_file import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from reslora_sd.files.unet_names import (
    SD,
    SDXL,
    guess_topology,
    kohya_stem,
    module_of,
    sai_path,
    topology_of,
)
from tests import unets

UNETS = {"SD 1": unets.SD1, "SD 2": unets.SD2, "SDXL": unets.SDXL, "one layer": {**unets.SMALL, "layers_per_block": 1}}
INSIDE = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def counted(unet: Any) -> dict[str, str]:
    """diffusers' paths to SAI's, by walking the U-Net in the order in which it runs, and counting blocks.

    Stability's code has one list of blocks on each way; each holds a residual block, then its attention, then what
    changes the size, of which on the way down a block of its own is made.
    """
    found = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for name, sai in (("time_embedding", "time_embed"), ("add_embedding", "label_emb.0")):
        found |= {f"{name}.linear_1": f"{sai}.0", f"{name}.linear_2": f"{sai}.2"}
    number = 0
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            number += 1
            found[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            found[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
        if block.downsamplers:
            number += 1
            found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    for slot, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        found[f"mid_block.{name}"] = f"middle_block.{slot}"
    number = -1
    for level, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            number += 1
            found[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            found[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
        slot = 2 if hasattr(block, "attentions") else 1
        found[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{slot}.conv"
    return found


def with_weights(unet: nn.Module) -> Iterator[str]:
    return (name for name, module in unet.named_modules() if list(module.parameters(recurse=False)))


@pytest.mark.parametrize("kind", UNETS)
def test_every_module_of_a_unet_has_its_name_in_stabilitys_code_and_comes_back(kind):
    unet = unets.weightless(UNETS[kind])
    topology, expected = topology_of(unet.config), counted(unet)
    names = list(with_weights(unet))
    for name in names:
        start = max((key for key in expected if name == key or name.startswith(f"{key}.")), key=len)
        rest = name[len(start) :]
        wanted = expected[start] + ("." + INSIDE[rest[1:]] if "resnets" in name else rest)
        assert sai_path(name, topology) == wanted
        assert module_of("lora_unet_" + wanted.replace(".", "_"), topology.layers) == (UNET, name)
        assert module_of("lora_unet_" + name.replace(".", "_"), topology.layers) == (UNET, name)
    for sai in (False, True):
        assert len({kohya_stem(UNET, name, topology, sai) for name in names}) == len(names)


@pytest.mark.parametrize("kind", ["SD 1", "SD 2", "SDXL"])
def test_the_kind_of_model_is_known_from_its_config_and_from_paths_alone(kind):
    unet = unets.weightless(UNETS[kind])
    expected = SDXL if kind == "SDXL" else SD
    assert topology_of(unet.config) == expected
    assert guess_topology({UNET: [name for name in with_weights(unet) if name.endswith("attn2.to_k")]}) == expected
    assert guess_topology({TEXT_ENCODER: ["text_model.encoder.layers.0.mlp.fc1"]}) == SD
    assert guess_topology({TEXT_ENCODER_2: ["text_model.encoder.layers.0.mlp.fc1"]}) == SDXL


def test_text_encoders_are_named_as_one_or_as_two():
    path = "text_model.encoder.layers.11.self_attn.out_proj"
    assert kohya_stem(TEXT_ENCODER, path, SD) == "lora_te_text_model_encoder_layers_11_self_attn_out_proj"
    assert kohya_stem(TEXT_ENCODER, path, SDXL) == "lora_te1_text_model_encoder_layers_11_self_attn_out_proj"
    assert kohya_stem(TEXT_ENCODER_2, path, SDXL) == "lora_te2_text_model_encoder_layers_11_self_attn_out_proj"
    for other in (path, "text_model.encoder.layers.0.mlp.fc2", "text_projection"):
        for component, topology in ((TEXT_ENCODER, SD), (TEXT_ENCODER, SDXL), (TEXT_ENCODER_2, SDXL)):
            assert module_of(kohya_stem(component, other, topology)) == (component, other)


@pytest.mark.parametrize(
    "stem",
    [
        "lora_unet_input_blocks_3_0_in_layers_2",  # a downsampler's place
        "lora_unet_input_blocks_0_1_proj_in",
        "lora_unet_input_blocks_4_1",
        "lora_unet_output_blocks_2_2_proj_in",
        "lora_unet_down_blocks_00_attentions_0_proj_in",
        "lora_unet_down_blocks_0_upsamplers_0_conv",
        "lora_unet_down_blocks_0_downsamplers_0_proj_in",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn3_to_q",
        "lora_te_text_model_encoder_layers_1_attn_q",
        "lora_te3_text_projection",
        "text_projection",
        "lora_unet_",
    ],
)
def test_other_names_are_no_modules(stem):
    assert module_of(stem) is None


@pytest.mark.parametrize("path", ["up_blocks.0.upsamplers.1.conv", "down_blocks.0.resnets.2.conv1", "class_embedding"])
def test_a_module_without_a_name_there_is_refused(path):
    with pytest.raises(ValueError, match=rf"{path} has no name in Stability AI's U-Net\. Save this LoRA for diffusers"):
        sai_path(path)


def test_levels_of_different_depth_have_names_in_diffusers_alone():
    topology = topology_of({"layers_per_block": (1, 2), "up_block_types": ["CrossAttnUpBlock2D"]})
    path = "down_blocks.0.attentions.0.proj_in"
    assert kohya_stem(UNET, path, topology) == "lora_unet_down_blocks_0_attentions_0_proj_in"
    with pytest.raises(ValueError, match="has no name"):
        kohya_stem(UNET, path, topology, sai=True)
