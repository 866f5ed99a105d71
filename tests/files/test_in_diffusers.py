"""LoRA files in diffusers' own pipelines and in PEFT: every module at its strength, whatever is done with it."""

import copy
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from tests.files.loras import RESIDUALS, TEXT, expected_of
from tests.files.pipelines import added, deltas_in, drawing, layers_of, parts_of, pipeline, tuned
from tests.files.topologies import tiny_unet


@pytest.fixture
def sd():
    """SD 1.5's pipeline, without a LoRA again after the test."""
    pipe = pipeline("sd1")
    yield pipe
    pipe.unload_lora_weights()


def weights_of(pipe):
    return {name: layer.weight.detach().clone() for name, layer in layers_of(pipe).items()}


def check(found, expected, most=1e-6):
    assert found.keys() == expected.deltas.keys()
    errors = {name: float((found[name].float() - delta).norm()) for name, delta in expected.deltas.items()}
    assert all(error <= most * expected.norms[name] for name, error in errors.items())


CASES = [
    *(("sd1", kind, "diffusers") for kind in RESIDUALS),
    *(("sd1", kind, "kohya") for kind in ("block", TEXT)),
    *(("sd2", TEXT, form) for form in ("diffusers", "kohya")),
    *(("sdxl", TEXT, form) for form in ("diffusers", "sai")),
]


@pytest.mark.parametrize(("family", "kind", "form"), CASES)
def test_a_pipeline_takes_every_module_at_its_strength(family, kind, form, saved):
    pipe = pipeline(family)
    pipe.load_lora_weights(str(saved(family, kind, form)))
    found = deltas_in(pipe)
    pipe.unload_lora_weights()
    check(found, expected_of(family, kind))


def test_a_pefts_file_does_nothing_in_a_pipeline(sd, saved):
    sd.load_lora_weights(str(saved("sd1", "none", "peft")))
    assert not deltas_in(sd)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_fusing_adds_the_deltas_and_unfusing_takes_them_out(strength, sd, saved):
    before, expected = weights_of(sd), expected_of("sd1", TEXT)
    parts = list(parts_of(sd))
    sd.load_lora_weights(str(saved("sd1", TEXT, "diffusers")))
    sd.fuse_lora(components=parts, lora_scale=strength)
    for name, weight in weights_of(sd).items():
        torch.testing.assert_close(weight, before[name] + strength * expected.deltas.get(name, 0), rtol=1e-6, atol=1e-6)
    sd.unfuse_lora(components=parts)
    for name, weight in weights_of(sd).items():
        torch.testing.assert_close(weight, before[name], rtol=1e-5, atol=1e-5)


def test_half_strength_draws_as_half_the_deltas_do(sd, saved):
    with added(sd, [(expected_of("sd1", TEXT).deltas, 0.5)]):
        expected = drawing(sd)
    base = drawing(sd)
    pipe = StableDiffusionPipeline(**sd.components, requires_safety_checker=False)  # it remembers the last scale
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(saved("sd1", TEXT, "diffusers")))
    same(drawing(pipe, cross_attention_kwargs={"scale": 0.5}), expected, base)


def same(found, expected, base, most=1e-3):
    """The difference is small beside what the LoRA changes."""
    assert float((found - expected).norm()) <= most * float((expected - base).norm())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # PEFT's, of the second
def test_two_at_once_act_at_their_own_strengths(sd, saved):
    with added(sd, [(expected_of("sd1", "block").deltas, 0.7), (expected_of("sd1", TEXT).deltas, 0.3)]):
        expected = drawing(sd)
    base = drawing(sd)
    sd.load_lora_weights(str(saved("sd1", "block", "diffusers")), adapter_name="a")
    sd.load_lora_weights(str(saved("sd1", TEXT, "kohya")), adapter_name="b")
    sd.set_adapters(["a", "b"], [0.7, 0.3])
    same(drawing(sd), expected, base)


def test_a_swapped_in_lora_acts_alone(sd, saved):
    sd.load_lora_weights(str(saved("sd1", "none", "diffusers")), adapter_name="a")
    sd.load_lora_weights(str(saved("sd1", "input", "diffusers")), adapter_name="a", hotswap=True)
    check(deltas_in(sd, "a"), expected_of("sd1", "input"))


PICTURE = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)


def with_controlnet(pipe):
    torch.manual_seed(0)
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for part in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        nn.init.normal_(part.weight, std=0.1)  # zero in a new one
    return StableDiffusionControlNetPipeline(**pipe.components, controlnet=control)


def with_lcm(pipe):
    lcm = LCMScheduler.from_config(pipe.scheduler.config)
    return StableDiffusionPipeline(**{**pipe.components, "scheduler": lcm}, requires_safety_checker=False)


OTHERS = {
    "img2img": (lambda pipe: StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False), True),
    "ControlNet": (with_controlnet, True),
    "LCM": (with_lcm, False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_pipelines_draw_as_the_deltas_do(name, sd, saved):
    make, takes_picture = OTHERS[name]
    pipe = make(sd)
    pipe.set_progress_bar_config(disable=True)
    more: dict[str, Any] = {"image": PICTURE} if takes_picture else {}
    more |= {"num_inference_steps": 4} if name == "img2img" else {}  # of which it runs the last three
    with added(pipe, [(expected_of("sd1", TEXT).deltas, 1.0)]):
        expected = drawing(pipe, **more)
    base = drawing(pipe, **more)
    pipe.load_lora_weights(str(saved("sd1", TEXT, "diffusers")))
    same(drawing(pipe, **more), expected, base)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_a_half_precision_pipeline_takes_it(dtype, most, saved):
    pipe = copy.deepcopy(pipeline("sd1")).to(dtype)
    base = drawing(pipe)
    with added(pipe, [(expected_of("sd1", TEXT).deltas, 1.0)]):
        expected = drawing(pipe)
    pipe.load_lora_weights(str(saved("sd1", TEXT, "diffusers", "fp16")))
    found = deltas_in(pipe)
    assert {delta.dtype for delta in found.values()} == {dtype}
    errors = {
        name: float((found[name].float() - delta).norm()) for name, delta in expected_of("sd1", TEXT).deltas.items()
    }
    assert all(error <= most * expected_of("sd1", TEXT).sizes[name] for name, error in errors.items())
    same(drawing(pipe), expected, base, 30 * most)


@pytest.mark.parametrize("kind", ["block", TEXT])
def test_a_unet_alone_takes_its_part_also_without_metadata(kind, saved):
    unet = copy.deepcopy(pipeline("sd1").unet)
    unet.load_lora_adapter(load_file(saved("sd1", kind, "diffusers")), prefix="unet")
    deltas = {name: delta for name, delta in expected_of("sd1", kind).deltas.items() if name.startswith("unet.")}
    found = {f"unet.{path}": delta for path, delta in tuned(unet).items()}
    assert found.keys() == deltas.keys()
    assert all((found[name] - delta).norm() <= 1e-6 * delta.norm() for name, delta in deltas.items())


_PEFT = [("sd1", "middle"), ("sd2", "block"), pytest.param("sdxl", "none", marks=pytest.mark.slow), ("sd1", TEXT)]


@pytest.mark.parametrize(("family", "kind"), _PEFT)
def test_peft_loads_its_folder_and_merges_it(family, kind, saved):
    unet = tiny_unet(family)
    before = {name: layer.weight.detach().clone() for name, layer in unet.named_modules() if hasattr(layer, "weight")}
    model = PeftModel.from_pretrained(unet, saved(family, kind, "peft").parent)
    expected = {name[5:]: d for name, d in expected_of(family, kind).deltas.items() if name.startswith("unet.")}
    found = {path.removeprefix("base_model.model."): delta for path, delta in tuned(model, "default").items()}
    assert found.keys() == expected.keys()
    assert all((found[name] - delta).norm() <= 1e-6 * delta.norm() for name, delta in expected.items())
    for name, layer in model.merge_and_unload().named_modules():
        if name in before:
            torch.testing.assert_close(
                layer.weight.detach(), before[name] + expected.get(name, 0), rtol=1e-6, atol=1e-6
            )
