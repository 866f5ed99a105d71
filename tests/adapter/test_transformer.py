"""The transformers of Stable Diffusion 3 and FLUX: values, gradients, a step, merging, and what diffusers loads."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from peft import PeftModel
from torch import nn

from reslora_sd import ResLoRAConfig, add_reslora, collect_statistics, load_reslora, merge
from reslora_sd.config import RESIDUALS
from reslora_sd.merging.applied import applied
from tests.oracle import apply_site, world_of
from tests.toys import move_away_from_zero

_TEXT = {"joint_attention_dim": 12, "pooled_projection_dim": 8}
_HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.2",
)
NAMES = ("sd3", "flux")
OTHERS = sorted({*itertools.product(NAMES, RESIDUALS)} - {("sd3", "input"), ("flux", "middle")})


def model_of(name):
    torch.manual_seed(0)
    more: dict[str, Any]
    if name == "sd3":
        more = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "patch_size": 2, "pos_embed_max_size": 8}
        model = SD3Transformer2DModel(
            **more, **_TEXT, **_HEADS, num_layers=3, caption_projection_dim=16, dual_attention_layers=(0, 1)
        )
    else:
        more = {"in_channels": 4, "axes_dims_rope": (2, 2, 4), "guidance_embeds": True}
        model = FluxTransformer2DModel(**more, **_TEXT, **_HEADS, num_layers=2, num_single_layers=3)
    return model.double().eval()


def inputs_for(model, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given = {"encoder_hidden_states": draw(2, 5, 12), "pooled_projections": draw(2, 8)}
    if isinstance(model, SD3Transformer2DModel):
        return {**given, "hidden_states": draw(2, 4, 8, 8), "timestep": torch.tensor([3.0, 700.0])}
    given |= {"img_ids": torch.randint(0, 4, (16, 3), generator=generator).double(), "txt_ids": torch.zeros(5, 3)}
    return {**given, "hidden_states": draw(2, 16, 4), "timestep": torch.tensor([0.1, 0.7]), "guidance": torch.ones(2)}


def output(model, seed=1, **more):
    return model(**inputs_for(model, seed), **more).sample


def adapted(name, residual, **more):
    targets = TARGETS + (("proj_mlp",) if name == "flux" else ())
    model = model_of(name)
    adapter = add_reslora(model, ResLoRAConfig(residual=residual, r=3, target_modules=targets, **more))
    for block in adapter.blocks.values():
        block.double()
    move_away_from_zero(adapter, std=0.1)
    return model, adapter


def chains_by_hand(names):
    """Neighbours have one end of the path, and are of one kind of block; nearest first."""
    chains = {}
    for name in names:
        kind, number, end = name.split(".", 2)
        others = [f"{kind}.{before}.{end}" for before in range(int(number) - 1, -1, -1)]
        chains[name] = others[: next((i for i, one in enumerate(others) if one not in names), len(others))]
    return chains


class _Site(nn.Module):
    def __init__(self, world, name, layer):
        super().__init__()
        self.world, self.name, self.layer = world, name, layer

    def forward(self, x):
        return apply_site(self.world, self.name, self.layer, x)


@pytest.mark.parametrize(
    ("name", "residual"),
    [("sd3", "input"), ("flux", "middle"), *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_values_and_gradients_are_those_of_the_equations_also_when_blocks_are_run_again(name, residual):
    model, adapter = adapted(name, residual)
    plain = model_of(name).requires_grad_(False)
    world = world_of(adapter, chains_by_hand(adapter.blocks))
    for site in adapter.blocks:
        plain.set_submodule(site, _Site(world, site, plain.get_submodule(site)))
    expected = output(plain).square().sum()
    expected.backward()
    model.train()
    for again in (False, True):
        if again:
            model.enable_gradient_checkpointing()
        loss = output(model).square().sum()
        loss.backward()
        torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-9, atol=1e-9)
        for key, parameter in adapter.named_parameters():
            wanted = world[key[-1]][key[: -len(".lora_A")]].grad
            assert (parameter.grad - wanted).abs().max() <= 1e-9 * max(float(wanted.abs().max()), 1.0), key
            assert parameter.grad.any(), key  # every block learns
            parameter.grad = None


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_joins_blocks_of_one_kind(name):
    _, adapter = adapted(name, "middle", pre_num=-1)
    lengths = {chain[0]: len(chain) for chain in adapter.link_plan().chains()}
    assert lengths["transformer_blocks.0.attn.to_q"] == (3 if name == "sd3" else 2)
    if name == "flux":
        assert lengths["single_transformer_blocks.0.attn.to_q"] == lengths["single_transformer_blocks.0.proj_mlp"] == 3
    else:  # the last block asks for no text any more
        assert lengths["transformer_blocks.0.attn.add_k_proj"] == 3
        assert lengths["transformer_blocks.0.attn.add_q_proj"] == lengths["transformer_blocks.0.attn2.to_q"] == 2
    by_name = {link.site.name: link for link in adapter.link_plan()}
    assert by_name["transformer_blocks.1.attn.add_q_proj"].site.reads_text


@pytest.mark.slow
def test_chains_of_published_models_are_as_long_as_their_blocks():
    with torch.device("meta"):
        sd3 = SD3Transformer2DModel(num_layers=24, caption_projection_dim=1536, num_attention_heads=24)
        flux = FluxTransformer2DModel(guidance_embeds=True)
    for model, lengths in ((sd3, [24]), (flux, [19, 38])):
        plan = add_reslora(model, ResLoRAConfig(target_modules=("to_q",))).link_plan()
        assert [len(chain) for chain in plan.chains()] == lengths


@pytest.mark.parametrize(
    ("name", "residual"),
    [("flux", "input"), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("sd3", "input"), ("sd3", "block")))],
)
def test_a_model_learns_and_its_merge_acts_in_diffusers_as_it_does_here(name, residual, tmp_path):
    model, adapter = adapted(name, residual)
    target = torch.randn(output(model).shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = (output(model) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]

    statistics = collect_statistics(adapter, range(4), lambda seed: output(model, seed))
    plain = merge(adapter, None, statistics)
    adapter.save(tmp_path / "adapter.safetensors")
    with torch.no_grad():
        unmerged = output(model)
        with adapter.disabled():
            base = output(model)
        assert torch.equal(base, output(model_of(name).requires_grad_(False)))  # which torch multiplies otherwise
        assert torch.equal(output(model, joint_attention_kwargs={"scale": 0.0}), base)
        adapter.remove()
        assert set(model.state_dict()) == set(model_of(name).state_dict())
        assert torch.equal(output(model), output(model_of(name)))
        with applied(plain, model):
            wanted = output(model)
        if residual == "block":
            torch.testing.assert_close(wanted, unmerged, rtol=0, atol=1e-6)
        else:
            errors = [report.error or 0.0 for report in plain.reports.values()]
            assert (wanted - unmerged).norm() < (unmerged - base).norm() and min(errors) < 1e-3 < max(errors)
        plain.save_diffusers(tmp_path)
        other = _loaded(name, tmp_path)
        torch.testing.assert_close(output(other), wanted, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="Remove other adapters first"):
            add_reslora(other, ResLoRAConfig(target_modules=TARGETS))
        plain.save_peft(tmp_path / "peft")
        other = PeftModel.from_pretrained(model_of(name), tmp_path / "peft").get_base_model()
        torch.testing.assert_close(output(other), wanted, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="Use save_diffusers"):
            plain.save_kohya(tmp_path / "k.safetensors")
        load_reslora(model, tmp_path / "adapter.safetensors")
        torch.testing.assert_close(output(model), unmerged, rtol=0, atol=1e-5)


def _loaded(name, folder):
    """The transformer of a pipeline that has loaded the LoRA, as a user would."""
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    kind = FluxPipeline if name == "flux" else StableDiffusion3Pipeline
    parts |= dict.fromkeys(("text_encoder_3", "tokenizer_3")) if name == "sd3" else {}
    pipeline = kind(transformer=model_of(name), scheduler=FlowMatchEulerDiscreteScheduler(), **parts)
    pipeline.load_lora_weights(folder)
    assert pipeline.get_list_adapters().keys() == {"transformer"}
    return pipeline.transformer


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles_are_models_of_their_own(name):
    model, adapter = adapted(name, "input")
    with torch.no_grad():
        expected = output(model)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            adapter.blocks[next(iter(adapter.blocks))].lora_B.add_(1)
            assert torch.equal(output(twin), expected)
            adapter.blocks[next(iter(adapter.blocks))].lora_B.sub_(1)


@pytest.mark.parametrize(
    ("targets", "words"),
    [(("to_query",), "'to_query', which matches no linear layer"), (("norm_q",), "is a RMSNorm, not a plain linear")],
)
def test_targets_that_are_no_linear_layers_are_refused(targets, words):
    with pytest.raises(ValueError, match=words):
        add_reslora(model_of("flux"), ResLoRAConfig(target_modules=targets))


def test_other_models_and_skipped_ones_are_refused():
    model, _ = adapted("sd3", "input")
    with pytest.raises(ValueError, match="has a ResLoRA adapter already"):
        add_reslora(model, ResLoRAConfig())
    with pytest.raises(RuntimeError, match=r"Run the whole model"):
        output(model, skip_layers=[0])
    with pytest.raises(RuntimeError, match=r"Call the model itself"):
        model.forward(**inputs_for(model))
    fused = model_of("flux")
    fused.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"unfuse_qkv_projections\(\)"):
        add_reslora(fused, ResLoRAConfig())
