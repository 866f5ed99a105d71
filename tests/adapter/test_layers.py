"""Layers of a U-Net's transformers outside of attention: values, gradients, and what a merge of them is elsewhere."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from torch import nn

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.config import RESIDUALS
from reslora_sd.merging.applied import applied
from reslora_sd.merging.start import start_from
from reslora_sd.plan.targets import FEED_FORWARD, PROJECTIONS, TARGET_SETS
from tests.oracle import apply_site, world_of
from tests.unets import SMALL, inputs_for, move_away_from_zero, small_unet

ENDS = (*FEED_FORWARD, *PROJECTIONS)


def chains_by_hand():
    """As in test_unet.py: 2 down, 1 in the middle, 3 up."""
    chains = {}
    groups = [
        [f"down_blocks.0.attentions.{i}" for i in range(2)],
        ["mid_block.attentions.0"],
        [f"up_blocks.1.attentions.{i}" for i in range(3)],
    ]
    for group, end in itertools.product(groups, ENDS):
        sites = [f"{one}.{'transformer_blocks.0.' * (end in FEED_FORWARD)}{end}" for one in group]
        chains.update({site: sites[:place][::-1] for place, site in enumerate(sites)})
    return chains


class _Site(nn.Module):
    """A layer by the equations, also where it is a convolution of 1 x 1."""

    def __init__(self, world, name, layer):
        super().__init__()
        self.world, self.name, self.layer = world, name, nn.Linear(1, 1).double()
        self.layer.weight, self.layer.bias = nn.Parameter(layer.weight.flatten(1)), layer.bias

    def forward(self, x):
        rows = x.flatten(2).mT if x.ndim == 4 else x
        h = apply_site(self.world, self.name, self.layer, rows)
        return h.mT.reshape(len(x), -1, *x.shape[2:]) if x.ndim == 4 else h


def adapted(residual, targets=ENDS, linear=False, **more):
    unet = small_unet({**SMALL, "use_linear_projection": linear}, dtype=torch.float64)
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4, target_modules=targets, **more))
    for block in adapter.blocks.values():
        block.double()
    move_away_from_zero(adapter, std=0.1)
    return unet, adapter


def gradients_of(unet, adapter):
    loss = unet(**inputs_for(unet)).sample.square().sum()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}
    for parameter in adapter.parameters():
        parameter.grad = None
    return loss.detach(), found


FAST = [("input", False), ("middle", False)]
SLOW = sorted({*itertools.product(RESIDUALS, (False, True))} - {*FAST})


@pytest.mark.parametrize(("residual", "linear"), [*FAST, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)])
def test_values_and_gradients_are_those_of_the_equations_also_when_blocks_are_run_again(residual, linear):
    unet, adapter = adapted(residual, linear=linear)
    names = [name for name, _ in unet.named_modules()]
    plain = small_unet({**SMALL, "use_linear_projection": linear}, dtype=torch.float64)
    world = world_of(adapter, chains_by_hand())
    plain.requires_grad_(False)
    for name in adapter.blocks:
        plain.set_submodule(name, _Site(world, name, plain.get_submodule(name)))
    expected = plain(**inputs_for(plain)).sample.square().sum()
    expected.backward()
    unet.train()
    loss, gradients = gradients_of(unet, adapter)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    unet.enable_gradient_checkpointing()
    again, recomputed = gradients_of(unet, adapter)
    assert torch.equal(loss, again)
    for name, letter in itertools.product(adapter.blocks, "AB"):
        wanted = world[letter][name].grad
        for found in (gradients, recomputed):
            error = (found[f"{name}.lora_{letter}"] - wanted).abs().max()
            assert error <= 1e-10 * max(float(wanted.abs().max()), 1.0), (name, letter)
    assert any("block" in name.split(".") for name in names)
    adapter.remove()
    assert type(unet.get_submodule("mid_block.attentions.0.proj_in")) in (nn.Linear, nn.Conv2d)
    assert set(unet.state_dict()) == set(small_unet({**SMALL, "use_linear_projection": linear}).state_dict())


def test_a_convolution_comes_back_as_it_was():
    unet = small_unet()
    before = repr(unet)
    x = inputs_for(unet)
    with torch.no_grad():
        base = unet(**x).sample
        adapter = add_reslora(unet, ResLoRAConfig(target_modules=ENDS))
        move_away_from_zero(adapter)
        assert not torch.equal(unet(**x).sample, base)
        with adapter.disabled():
            assert torch.equal(unet(**x).sample, base)
        with pytest.raises(ValueError, match="has a ResLoRA adapter already"):
            add_reslora(unet, ResLoRAConfig())
        twin = copy.deepcopy(unet)
        adapter.remove()
        assert repr(unet) == before and torch.equal(unet(**x).sample, base)
    assert repr(twin) != before


def test_a_layer_that_runs_in_chunks_is_refused():
    unet, _ = adapted("input")
    unet.get_submodule("mid_block.attentions.0.transformer_blocks.0").set_chunk_feed_forward(1, dim=1)
    with pytest.raises(RuntimeError, match=r"set_chunk_feed_forward\(None\)"):
        unet(**inputs_for(unet))


@pytest.mark.parametrize(
    ("residual", "linear"),
    [("input", False), *(pytest.param(one, True, marks=pytest.mark.slow) for one in ("input", "block"))],
)
def test_every_form_of_a_merge_acts_elsewhere_as_it_does_here(tmp_path, residual, linear):
    unet, adapter = adapted(residual, TARGET_SETS["kohya"], linear)
    forward = lambda batch: unet(**batch)  # noqa: E731
    batches = [inputs_for(unet, seed=seed) for seed in range(2)]
    plain = merge(adapter, None, collect_statistics(adapter, batches, forward))
    adapter.remove()
    x = inputs_for(unet)
    with torch.no_grad():
        base = unet(**x).sample
        with applied(plain, unet):
            wanted = unet(**x).sample
        assert (wanted - base).abs().max() > 0.01
        plain.save_diffusers(tmp_path, unet_config=unet.config)
        plain.save_kohya(tmp_path / "kohya.safetensors", unet_config=unet.config)
        plain.save_peft(tmp_path / "peft")
        for file in ("pytorch_lora_weights.safetensors", "kohya.safetensors"):
            state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
                tmp_path, weight_name=file, unet_config=unet.config, return_lora_metadata=True
            )
            other = copy.deepcopy(unet)
            other.load_lora_adapter(state, network_alphas=alphas, prefix="unet", metadata=metadata)
            torch.testing.assert_close(other(**x).sample, wanted, rtol=0, atol=1e-6)
        other = PeftModel.from_pretrained(copy.deepcopy(unet), tmp_path / "peft")
        torch.testing.assert_close(other(**x).sample, wanted, rtol=0, atol=1e-6)
        for place in ("pytorch_lora_weights.safetensors", "kohya.safetensors", "peft"):
            again = PlainLoRA.load(tmp_path / place)
            assert again.blocks.keys() == plain.blocks.keys()
            with applied(again, unet):
                torch.testing.assert_close(unet(**x).sample, wanted, rtol=0, atol=1e-6)
        other = copy.deepcopy(unet)
        plain.fuse_into(other)
        torch.testing.assert_close(other(**x).sample, wanted, rtol=0, atol=1e-5)
    ranks = max(block.r for block in plain.blocks.values())
    fresh = add_reslora(unet, ResLoRAConfig(residual="none", r=ranks, target_modules=TARGET_SETS["kohya"]))
    for block in fresh.blocks.values():
        block.double()
    start_from(fresh, plain, lambda: batches, forward)
    with torch.no_grad():
        torch.testing.assert_close(unet(**x).sample, wanted, rtol=0, atol=1e-5)
