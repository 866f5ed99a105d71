"""The numbers in files: scales, ranks, precision, and modules of every part of a pipeline."""

import logging
import re
from functools import partial

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from reslora_sd import PlainLoRA
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.files.writing import write_diffusers, write_kohya, write_peft

SITES = [f"down_blocks.2.attentions.1.transformer_blocks.{i}.attn1.to_q" for i in range(3)]
TEXT = "text_model.encoder.layers.0.mlp.fc1"


def blocks(names=SITES, ranks=(2, 4, 4), scalings=(3.0, 1.5, 0.25), size=1.0):
    torch.manual_seed(0)
    sizes = zip(names, ranks, scalings, strict=False)
    return {name: PlainBlock(size * torch.randn(r, 8), torch.randn(6, r), s) for name, r, s in sizes}


def deltas(components):
    pairs = ((f"{part}.{name}", found[name]) for part, found in components.items() for name in found)
    return {name: block.delta_weight().double() for name, block in pairs}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "float32"])
def test_the_product_alone_is_the_change_and_the_error_of_rounding_is_told(tmp_path, precision):
    components = {"unet": blocks(), "text_encoder": blocks([TEXT])}
    written = write_diffusers(tmp_path, components, {}, precision)
    tensors, exact = load_file(written.path), deltas(components)
    off = {}
    for name, delta in exact.items():
        A, B = (tensors[f"{name}.lora_{letter}.weight"] for letter in "AB")
        assert A.dtype == B.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        off[name] = B.double() @ A.double() - delta
    error = torch.stack([one.square().sum() for one in off.values()]).sum().sqrt()
    whole = torch.stack([one.square().sum() for one in exact.values()]).sum().sqrt()
    assert written.error == pytest.approx(float(error / whole), rel=1e-3, abs=1e-7)
    assert 1e-5 < written.error < 1e-2 if precision != "float32" else written.error < 1e-7


@pytest.mark.parametrize("sai", [False, True])
def test_kohyas_alpha_is_the_rank_and_mixed_ranks_share_the_commonest(tmp_path, sai):
    for ranks, alpha in (((2, 4, 4), 4), ((3, 3, 3), 3)):
        components = {"unet": blocks(ranks=ranks)}
        tensors = load_file(write_kohya(tmp_path / "k.safetensors", components, {}, sai=sai).path)
        assert {float(value) for name, value in tensors.items() if name.endswith(".alpha")} == {alpha}
        stems = sorted(name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha"))
        for stem, exact in zip(stems, deltas(components).values(), strict=True):
            down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
            torch.testing.assert_close(alpha / len(down) * up @ down, exact.float())


def test_sdxl_has_the_names_of_its_own_tools_and_two_text_encoders(tmp_path):
    parts = {"text_encoder": blocks([TEXT]), "text_encoder_2": blocks([TEXT])}
    sdxl = PlainLoRA(blocks(), text_encoders=parts)
    stems = {name.split(".")[0] for name in load_file(sdxl.save_kohya(tmp_path / "k.safetensors"))}
    assert stems == {
        *(f"lora_unet_input_blocks_8_1_transformer_blocks_{i}_attn1_to_q" for i in range(3)),
        *(f"lora_te{i}_text_model_encoder_layers_0_mlp_fc1" for i in (1, 2)),
    }
    one = PlainLoRA(blocks(SITES[:1]), text_encoders={"text_encoder": blocks([TEXT])})
    stems = {name.split(".")[0] for name in load_file(one.save_kohya(tmp_path / "k.safetensors"))}
    assert stems == {"lora_unet_" + SITES[0].replace(".", "_"), "lora_te_text_model_encoder_layers_0_mlp_fc1"}


def test_a_convolution_keeps_its_kernel(tmp_path):
    torch.manual_seed(0)
    path = "down_blocks.1.resnets.0.conv1"
    block = PlainBlock(torch.randn(4, 8, 3, 3), torch.randn(6, 4), 0.5)
    tensors = load_file(write_kohya(tmp_path / "k.safetensors", {"unet": {path: block}}, {}, sai=True).path)
    stem = "lora_unet_input_blocks_4_0_in_layers_2"
    down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
    assert down.shape == (4, 8, 3, 3) and up.shape == (6, 4, 1, 1)
    torch.testing.assert_close(torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down), block.delta_weight())


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (1e5, rf"unet\.{SITES[0]} has a number too large for fp16\. Choose bf16"),
        (1e-8, r"its numbers are so small that \d+ % would be lost for fp16"),
    ],
)
def test_numbers_beyond_half_precision_make_the_file_float32_which_is_told(tmp_path, caplog, size, words):
    components = {"unet": blocks(size=size)}
    with caplog.at_level(logging.WARNING, "reslora_sd"):
        written = write_kohya(tmp_path / "k.safetensors", components, {}, "fp16")
    assert written.precision == "float32" and written.error < 1e-7
    assert {value.dtype for value in load_file(written.path).values()} == {torch.float32}
    assert re.search(rf"k\.safetensors is saved in float32: {words}", caplog.text)
    assert write_kohya(tmp_path / "k.safetensors", components, {}, "bf16").precision == "bf16"


@pytest.mark.parametrize(
    ("components", "precision", "words"),
    [
        ({"unet": blocks(size=float("nan"))}, "fp16", r"attn1\.to_q holds NaN or infinity, so .*isn't written"),
        ({"unet": {}, "text_encoder": {}}, "fp16", "has no block"),
        ({"unet": blocks()}, "fp8", "precision is 'fp8'. Choose one of fp16, bf16, float32"),
    ],
)
def test_what_is_no_lora_is_not_written(tmp_path, components, precision, words):
    for write in (write_diffusers, write_kohya, partial(write_kohya, sai=True), write_peft):
        with pytest.raises(ValueError, match=words):
            write(tmp_path / "x.safetensors", components, {}, precision)
    assert not list(tmp_path.iterdir())


def test_peft_gets_a_folder_for_each_model(tmp_path):
    components = {"unet": blocks(["q"]), "text_encoder": blocks(["q"], scalings=(0.5,))}
    write_peft(tmp_path, components, {}, "bf16")
    for part, found in components.items():
        linear = nn.Linear(8, 6, bias=False)
        before = linear.weight.detach().clone()
        PeftModel.from_pretrained(nn.ModuleDict({"q": linear}), tmp_path / part).merge_and_unload()
        torch.testing.assert_close(linear.weight - before, found["q"].delta_weight(), rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="belong to one model of unet, text_encoder"):
        write_peft(tmp_path, components, {}, trained_modules={"head.weight": torch.ones(1)})
