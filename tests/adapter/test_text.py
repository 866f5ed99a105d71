"""ResLoRA in text models: values and gradients against tests/oracle.py, the tape's ways, and what goes wrong."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
import transformers
from torch import nn

from reslora_sd import ResLoRAConfig, ResLoRALinear, add_reslora, load_reslora
from reslora_sd.adapter import text as linear_module
from reslora_sd.adapter.text import gradient_checkpointing_kwargs
from reslora_sd.blocks.tape import current_tape
from reslora_sd.config import RESIDUALS
from tests.oracle import OracleLinear, world_of
from tests.texts import small_bert, small_llama, tokens_for
from tests.unets import move_away_from_zero

LLAMA, BERT = ("q_proj", "v_proj"), ("query", "value")
CASES = [
    ResLoRAConfig(residual="none", r=4, target_modules=LLAMA),
    ResLoRAConfig(residual="input", r=4, target_modules=LLAMA),
    ResLoRAConfig(residual="input", r=4, first_block="none", target_modules=LLAMA),
    ResLoRAConfig(residual="frozen", r=4, target_modules=LLAMA),
    *(
        ResLoRAConfig(residual=residual, r=4, pre_num=pre_num, target_modules=LLAMA)
        for residual in ("block", "middle")
        for pre_num in (1, 4, -1)
    ),
]


def name_of(config):
    return f"{config.residual}-{config.pre_num}-{config.first_block}"


def adapted_llama(config, dtype=torch.float64):
    model = small_llama(dtype=dtype)
    adapter = add_reslora(model, config)
    for block in adapter.blocks.values():
        block.to(dtype)
    move_away_from_zero(adapter)
    return model, adapter


def loss_and_gradients(model, adapter, ids):
    loss = model(input_ids=ids).logits.square().sum()
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}
    for parameter in adapter.parameters():
        parameter.grad = None
    return loss.detach(), gradients


@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_values_and_gradients_are_those_of_the_equations(config):
    plain = small_llama(dtype=torch.float64)
    model, adapter = adapted_llama(config)
    ids = tokens_for(model)
    loss, gradients = loss_and_gradients(model, adapter, ids)

    names = {p: [f"model.layers.{i}.self_attn.{p}" for i in range(5)] for p in LLAMA}
    chains = {name: chain[:place][::-1] for chain in names.values() for place, name in enumerate(chain)}
    world = world_of(adapter, chains)
    plain.requires_grad_(False)
    for name in chains:
        plain.set_submodule(name, OracleLinear(name, plain.get_submodule(name), world))
    expected = plain(input_ids=ids).logits.square().sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    for name in adapter.blocks:
        for letter in "AB":
            oracle = world[letter][name].grad
            torch.testing.assert_close(gradients[f"{name}.lora_{letter}"], oracle, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("config", CASES, ids=name_of)
def test_gradient_checkpointing_changes_no_gradient(config):
    model, adapter = adapted_llama(config)
    model.train()
    ids = tokens_for(model)
    loss, gradients = loss_and_gradients(model, adapter, ids)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs())
    again, recomputed = loss_and_gradients(model, adapter, ids)
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-12, atol=1e-12)
        assert gradient.abs().max() > 0, name


def test_a_checkpointed_graph_can_be_run_backward_twice():
    model, adapter = adapted_llama(CASES[1])
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs())
    loss = model(input_ids=tokens_for(model)).logits.square().sum()
    once = torch.autograd.grad(loss, list(adapter.parameters()), retain_graph=True)
    twice = torch.autograd.grad(loss, list(adapter.parameters()))
    assert all(torch.equal(one, two) for one, two in zip(once, twice, strict=True))


def test_checkpointing_without_our_context_is_refused_before_it_can_go_wrong():
    model, _ = adapted_llama(CASES[1])
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pytest.raises(RuntimeError, match="gradient_checkpointing_kwargs"):
        model(input_ids=tokens_for(model))
    assert current_tape() is None
    model.eval()(input_ids=tokens_for(model))  # nothing is recomputed here


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_two_forwards_before_one_backward_add_up(residual, checkpointing):
    model, adapter = adapted_llama(ResLoRAConfig(residual=residual, r=4, target_modules=LLAMA))
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs())
    first, second = tokens_for(model, seed=3), tokens_for(model, length=5, seed=4)
    _, one = loss_and_gradients(model, adapter, first)
    _, two = loss_and_gradients(model, adapter, second)
    losses = [model(input_ids=ids).logits.square().sum() for ids in (first, second)]
    sum(losses).backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, one[name] + two[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_two_threads_do_not_meet(residual):
    model, _ = adapted_llama(ResLoRAConfig(residual=residual, r=4, target_modules=LLAMA))
    model.eval()
    inputs = [tokens_for(model, length=5, seed=5), tokens_for(model, length=9, seed=6)]
    with torch.no_grad():
        alone = [model(input_ids=ids).logits for ids in inputs]
    wrong = []

    def work(which):
        for _ in range(10):
            with torch.no_grad():
                if not torch.equal(model(input_ids=inputs[which]).logits, alone[which]):
                    wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("residual", RESIDUALS)
def test_copies_and_pickles_right_after_a_step_work_alike(residual):
    model, adapter = adapted_llama(ResLoRAConfig(residual=residual, r=4, target_modules=LLAMA))
    ids = tokens_for(model)
    loss, _ = loss_and_gradients(model, adapter, ids)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(input_ids=ids).logits.square().sum(), loss)
        blocks = [module.block for module in twin.modules() if isinstance(module, ResLoRALinear)]
        inside = {id(block) for block in blocks}
        assert all(id(one) in inside for block in blocks for one in block.predecessors)


def test_nothing_of_a_step_lives_on_after_its_backward():
    model, adapter = adapted_llama(CASES[1])
    kept = []
    make = linear_module.new_tape

    def remember(*args, **kwargs):
        tape = make(*args, **kwargs)
        kept.append(weakref.ref(tape))
        return tape

    linear_module.new_tape = remember
    try:
        loss_and_gradients(model, adapter, tokens_for(model))
    finally:
        linear_module.new_tape = make
    gc.collect()
    assert kept and all(tape() is None for tape in kept)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_generation_with_a_cache_and_left_padding_gives_the_same_tokens(residual):
    model, _ = adapted_llama(ResLoRAConfig(residual=residual, r=4, target_modules=LLAMA), torch.float32)
    model.eval()
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ids = tokens_for(model, batch=1, length=6)
    cached = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=True, **settings)
    without = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **settings)
    assert torch.equal(cached, without)

    other = tokens_for(model, batch=1, length=10, seed=9)
    batch = torch.cat([torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1), other])
    mask = (batch != 0).long()
    padded = model.generate(batch, attention_mask=mask, **settings)
    assert torch.equal(padded[0, 10:], cached[0, 6:])


@pytest.mark.parametrize("residual", RESIDUALS)
def test_disabled_and_removed_give_the_base_model_bit_for_bit(residual):
    plain = small_llama()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    ids = tokens_for(plain)
    expected = plain(input_ids=ids).logits
    model, adapter = adapted_llama(ResLoRAConfig(residual=residual, r=4, target_modules=LLAMA), torch.float32)
    assert not torch.equal(model(input_ids=ids).logits, expected)
    with adapter.disabled():
        assert torch.equal(model(input_ids=ids).logits, expected)
    adapter.remove()
    adapter.remove()
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert all(type(module) is not ResLoRALinear for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_only_the_blocks_train_and_base_weights_keep_their_names():
    model, names = small_bert(), set(small_bert().state_dict())
    add_reslora(model, ResLoRAConfig(r=4, target_modules=BERT))
    assert names < set(model.state_dict())
    assert {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_the_plan_has_one_chain_a_projection_over_all_layers():
    _, adapter = adapted_llama(CASES[1])
    chains = adapter.link_plan().chains()
    assert chains == [[f"model.layers.{i}.self_attn.{p}" for i in range(5)] for p in LLAMA]
    blocks = adapter.blocks
    first = "model.layers.0.self_attn."
    assert blocks[first + "q_proj"].input_name == blocks[first + "v_proj"].input_name
    assert blocks[first + "v_proj"].lora_B.shape == (16, 4), "grouped heads: v is half of q"


def test_a_llama_of_seven_billion_is_planned_without_weights():
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=11008))
    adapter = add_reslora(model, ResLoRAConfig(residual="middle", r=4, lora_alpha=8, target_modules=LLAMA))
    assert [len(chain) for chain in adapter.link_plan().chains()] == [32, 32]
    assert adapter.num_parameters() == 32 * 2 * 2 * 4 * 4096  # 32 layers, q and v, A and B


def test_a_saved_training_form_comes_back(tmp_path):
    model, adapter = adapted_llama(CASES[1], torch.float32)
    ids = tokens_for(model)
    adapter.save(tmp_path / "adapter.safetensors")
    again = small_llama()
    load_reslora(again, tmp_path / "adapter.safetensors")
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo's own look at inputs
def test_a_compiled_model_gives_the_same():
    model, _ = adapted_llama(CASES[1], torch.float32)
    ids = tokens_for(model)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_part_of_the_model_alone_has_no_tape():
    model, _ = adapted_llama(CASES[1])
    with pytest.raises(RuntimeError, match="got no tape"):
        model.model(input_ids=tokens_for(model))


def test_a_skipped_layer_is_an_error_not_an_old_tensor():
    model, _ = adapted_llama(CASES[1])
    model.model.layers = nn.ModuleList([model.model.layers[i] for i in (0, 2, 3)])
    with pytest.raises(RuntimeError, match="has not run in this forward pass"):
        model(input_ids=tokens_for(model), use_cache=False)


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        (small_llama, ("q_proj", "no_such"), "'no_such', which matches no module"),
        (small_llama, "nothing.*", "matches no module"),
        (small_llama, ("self_attn",), "is a LlamaAttention"),
    ],
)
def test_targets_that_cannot_be_meant_are_named(model, targets, message):
    with pytest.raises(ValueError, match=message):
        add_reslora(model(), ResLoRAConfig(target_modules=targets))


def test_gpt2s_conv1d_is_refused_and_named():
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, bos_token_id=1, eos_token_id=2)
    )
    with pytest.raises(ValueError, match="Conv1D"):
        add_reslora(model, ResLoRAConfig(target_modules=("c_attn",)))


def test_a_second_adapter_and_a_module_that_is_no_model_are_refused():
    model, _ = adapted_llama(CASES[1])
    with pytest.raises(ValueError, match="already"):
        add_reslora(model, CASES[1])
    with pytest.raises(TypeError, match="not a Linear"):
        add_reslora(nn.Linear(2, 2), CASES[1])
