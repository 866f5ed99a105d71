"""The processor's values and gradients against the equations written out in tests/oracle.py."""

import copy
import gc
import inspect
import itertools
import pickle
import threading
import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.adapter import unet as attention_module
from reslora_sd.config import RESIDUALS
from tests.oracle import OracleProcessor, world_of
from tests.unets import SMALL_SD1, SMALL_SD2, SMALL_SDXL, give_maps, inputs_for, move_away_from_zero, small_unet

CASES = [
    ResLoRAConfig(residual="none", r=4),
    ResLoRAConfig(residual="input", r=4),
    ResLoRAConfig(residual="input", r=4, first_block="none"),
    ResLoRAConfig(residual="frozen", r=4),
    ResLoRAConfig(residual="frozen", r=4, first_block="none"),
    *(
        ResLoRAConfig(residual=residual, r=4, pre_num=pre_num, first_block=first)
        for residual, pre_num, first in itertools.product(("block", "middle"), (1, 2, 4, -1), ("self", "none"))
    ),
]


def gradients_of(adapter):
    gradients = [parameter.grad for parameter in adapter.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return gradients


def name_of(config):
    return f"{config.residual}-{config.pre_num}-{config.first_block}"


def chains_by_hand(unet):
    """Earlier sites, nearest first, from the small U-Net's architecture: 2 down, 1 in the middle, 3 up.

    Its middle has as many tokens as half-size blocks, of which none has attention, so that it stands alone.
    """
    down = [f"down_blocks.0.attentions.{i}.transformer_blocks.0" for i in range(2)]
    mid = ["mid_block.attentions.0.transformer_blocks.0"]
    up = [f"up_blocks.1.attentions.{i}.transformer_blocks.0" for i in range(3)]
    chains = {}
    for attention, projection in itertools.product(("attn1", "attn2"), ("to_q", "to_k", "to_v", "to_out.0")):
        for group in (down, mid, up):
            sites = [f"{block}.{attention}.{projection}" for block in group]
            chains.update({site: sites[:place][::-1] for place, site in enumerate(sites)})
    return chains


def loss_and_gradients(unet, adapter, inputs):
    loss = unet(**inputs).sample.square().sum()
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}
    for parameter in adapter.parameters():
        parameter.grad = None
    return loss.detach(), gradients


@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_values_and_gradients_are_those_of_the_equations(config):
    unet = small_unet(dtype=torch.float64)
    plain = copy.deepcopy(unet)
    adapter = add_reslora(unet, config)
    for block in adapter.blocks.values():
        block.double()
    # Twice this std (and a scale of 8) saturates the softmax: the oracle's own gradients then answer a change of its
    # inputs by 1e-15 with one of 9e-11, as much as was allowed here. With 0.1 it is 1e-13.
    move_away_from_zero(adapter, std=0.1)
    loss, gradients = loss_and_gradients(unet, adapter, inputs_for(unet))

    world = world_of(adapter, chains_by_hand(plain))
    plain.requires_grad_(False)
    plain.set_attn_processor(
        {name: OracleProcessor(name.removesuffix(".processor"), world) for name in plain.attn_processors}
    )
    expected = plain(**inputs_for(plain)).sample.square().sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    for name in adapter.blocks:
        for letter in "AB":
            scale = world[letter][name].grad.abs().max()
            error = (gradients[f"{name}.lora_{letter}"] - world[letter][name].grad).abs().max()
            assert error <= 1e-10 * max(float(scale), 1.0), (name, letter)


@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_gradient_checkpointing_changes_no_gradient(config):
    unet = small_unet(dtype=torch.float64).train()
    adapter = add_reslora(unet, config)
    for block in adapter.blocks.values():
        block.double()
    move_away_from_zero(adapter)
    loss, gradients = loss_and_gradients(unet, adapter, inputs_for(unet))
    unet.enable_gradient_checkpointing()
    again, recomputed = loss_and_gradients(unet, adapter, inputs_for(unet))
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-12, atol=1e-12)
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_two_forwards_before_one_backward_add_up(residual, checkpointing):
    unet = small_unet(dtype=torch.float64).train()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    for block in adapter.blocks.values():
        block.double()
    move_away_from_zero(adapter)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    first, second = inputs_for(unet, seed=3), inputs_for(unet, seed=4)
    _, one = loss_and_gradients(unet, adapter, first)
    _, two = loss_and_gradients(unet, adapter, second)
    (unet(**first).sample.square().sum() + unet(**second).sample.square().sum()).backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, one[name] + two[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_threads_do_not_meet(residual):
    unet = small_unet().eval()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    move_away_from_zero(adapter)
    jobs = [inputs_for(unet, seed=seed) for seed in range(6)]
    with torch.no_grad():
        alone = [unet(**job).sample for job in jobs]
        with adapter.disabled():
            base = unet(**jobs[0]).sample
    together: dict[int, Tensor] = {}

    def work(place):
        with torch.no_grad():
            for _ in range(3):
                if place == 0:
                    with adapter.disabled():
                        together[place] = unet(**jobs[place]).sample
                else:
                    together[place] = unet(**jobs[place]).sample

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(together[0], base)
    assert all(torch.equal(together[place], alone[place]) for place in range(1, len(jobs)))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_a_model_can_be_copied_and_pickled_right_after_a_step(residual):
    unet = small_unet().train()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    move_away_from_zero(adapter)
    loss_and_gradients(unet, adapter, inputs_for(unet))
    expected = unet(**inputs_for(unet)).sample
    for twin in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        assert torch.equal(twin(**inputs_for(unet)).sample, expected)
        with torch.no_grad():
            for processor in twin.attn_processors.values():
                processor.to_q.lora_B.zero_()
        assert not torch.equal(twin(**inputs_for(unet)).sample, expected)
    assert torch.equal(unet(**inputs_for(unet)).sample, expected)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_nothing_of_a_step_stays_alive(residual, checkpointing, backward, monkeypatch):
    tapes = []
    make = attention_module.new_tape

    def remember(*arguments):
        tape = make(*arguments)
        tapes.append(weakref.ref(tape))
        return tape

    monkeypatch.setattr(attention_module, "new_tape", remember)
    unet = small_unet().train()
    give_maps(add_reslora(unet, ResLoRAConfig(residual=residual, r=4)))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    loss = unet(**inputs_for(unet)).sample.square().sum()
    if backward:
        loss.backward()
    del loss
    gc.collect()
    assert tapes and all(tape() is None for tape in tapes)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_an_evaluation_between_two_steps_changes_nothing(residual):
    def train(evaluate):
        unet = small_unet().train()
        torch.manual_seed(5)
        adapter = give_maps(add_reslora(unet, ResLoRAConfig(residual=residual, r=4)))
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
        for seed in range(3):
            unet(**inputs_for(unet, seed=seed)).sample.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if evaluate:
                unet.eval()
                with torch.no_grad():
                    unet(**inputs_for(unet, seed=9))
                unet.train()
        return adapter.state_dict()

    straight, interrupted = train(False), train(True)
    assert all(torch.equal(straight[name], interrupted[name]) for name in straight)


@pytest.mark.parametrize("residual", ["input", "middle"])
def test_a_skipped_block_is_an_error_and_not_an_old_tensor(residual):
    unet = small_unet()
    add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    unet(**inputs_for(unet))
    down = unet.down_blocks[0]
    down.attentions[0].forward = lambda hidden_states, *_, **__: (hidden_states,)
    with pytest.raises(RuntimeError, match="has not run in this forward pass"):
        unet(**inputs_for(unet))


def test_a_call_beside_the_hooks_is_an_error():
    unet = small_unet()
    add_reslora(unet, ResLoRAConfig(r=4))
    with pytest.raises(RuntimeError, match=r"model\(\.\.\.\)"):
        unet.forward(**inputs_for(unet))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("config", [SMALL_SD1, SMALL_SD2, SMALL_SDXL], ids=["sd1", "sd2", "sdxl"])
def test_shrunken_unets_of_each_family_learn(config, residual):
    unet = small_unet(config).train()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    move_away_from_zero(adapter)
    _, gradients = loss_and_gradients(unet, adapter, inputs_for(unet))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["none", "input", "block", "middle"])
def test_a_compiled_unet_gives_the_same(residual):
    unet = small_unet().eval()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    move_away_from_zero(adapter)
    inputs = inputs_for(unet)
    compiled = torch.compile(unet, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).sample, unet(**inputs).sample)
    torch._dynamo.reset()


@pytest.mark.parametrize("residual", RESIDUALS)
def test_dropout_acts_while_training_only_and_follows_the_equation(residual):
    unet = small_unet().train()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4, lora_dropout=0.5))
    move_away_from_zero(adapter)
    inputs = inputs_for(unet)
    assert not torch.equal(unet(**inputs).sample, unet(**inputs).sample)
    unet.eval()
    calm = unet(**inputs).sample
    assert torch.equal(unet(**inputs).sample, calm)
    for block in adapter.blocks.values():
        block.dropout = 0.0
    torch.testing.assert_close(unet(**inputs).sample, calm)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_trainable_weights_in_float32(residual, dtype):
    unet = small_unet().train()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    move_away_from_zero(adapter, std=0.05)  # larger ones saturate the softmax
    inputs = inputs_for(unet)
    expected = unet(**inputs).sample
    unet.to(dtype)
    for parameter in adapter.parameters():
        parameter.data = parameter.data.float()
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    output = unet(**half).sample
    assert output.dtype == dtype
    assert (output.float() - expected).abs().max() < 0.03 * expected.abs().max()
    output.float().square().mean().backward()
    assert all(gradient.dtype == torch.float32 for gradient in gradients_of(adapter))
    with torch.autocast("cpu", torch.bfloat16):
        unet.float()(**inputs).sample.float().square().mean().backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(adapter))


def test_scale_of_cross_attention_kwargs_is_the_strength():
    unet = small_unet().eval()
    adapter = add_reslora(unet, ResLoRAConfig(r=4, residual="middle"))
    move_away_from_zero(adapter)
    inputs = inputs_for(unet)
    with torch.no_grad():
        full = unet(**inputs).sample
        half = unet(**inputs, cross_attention_kwargs={"scale": 0.5}).sample
        off = unet(**inputs, cross_attention_kwargs={"scale": 0.0}).sample
        with adapter.disabled():
            base = unet(**inputs).sample
    assert torch.equal(off, base) and not torch.equal(half, full) and not torch.equal(half, base)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_half_of_the_scale_is_half_of_lora_alpha(residual):
    outputs = []
    for alpha, scale in ((32.0, 0.5), (16.0, 1.0)):
        unet = small_unet(dtype=torch.float64).eval()
        adapter = add_reslora(unet, ResLoRAConfig(r=4, residual=residual, lora_alpha=alpha))
        move_away_from_zero(adapter, std=0.1)
        with torch.no_grad():
            outputs.append(unet(**inputs_for(unet), cross_attention_kwargs={"scale": scale}).sample)
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)


def test_diffusers_still_takes_cross_attention_kwargs_in_the_seventh_place():
    """The pre-hook counts on it where somebody passes everything by position."""
    names = list(inspect.signature(UNet2DConditionModel.forward).parameters)
    assert names[7] == "cross_attention_kwargs"  # after self


@pytest.mark.parametrize("part", ["mid_block.attentions.0", None])
def test_a_part_that_is_called_alone_says_that_it_got_no_tape(part):
    unet = small_unet().eval()
    add_reslora(unet, ResLoRAConfig(r=4, residual="input", target_modules=("ff.net.2",)))
    with pytest.raises(RuntimeError, match=r"^A Transformer2DModel got no tape\. Call the U-Net itself"):
        unet.get_submodule(part)(torch.zeros(1, 1, 1, 1)) if part else unet.forward(**inputs_for(unet))
