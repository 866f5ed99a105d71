"""A weight that two modules share: fusing a LoRA of one would move the other."""

import peft
import pytest
import torch
import transformers

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, merge
from reslora_sd.text.methods import attach
from reslora_sd.text.settings import TextMethod
from tests.texts import small_llama, tokens_for

TARGETS = ("q_proj", "v_proj", "lm_head")


def tied_llama():
    """The small Llama whose `lm_head` is its embedding."""
    config = small_llama().config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def untied(model, folder):
    """As the error says."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=tokens_for(small_llama())).logits


@pytest.mark.parametrize("method", ["lora", "reslora_is", "adalora", "loha", "lokr"])
def test_a_tied_target_is_refused_by_every_method(method):
    settings = TextMethod(method=method, target_modules=list(TARGETS))
    with pytest.raises(ValueError, match=r"lm_head shares its weight with model\.embed_tokens.*untie a copy"):
        attach(tied_llama(), settings, 20, 0)


def test_a_lora_of_a_tied_linear_is_not_fused_and_nothing_is_changed():
    model = tied_llama()
    before = logits_of(model)
    plain = lora_of(small_llama())
    with pytest.raises(ValueError, match="lm_head shares its weight"):
        plain.fuse_into(model)
    assert torch.equal(logits_of(model), before)


def lora_of(model) -> PlainLoRA:
    adapter = add_reslora(model, ResLoRAConfig(residual="none", r=4, target_modules=TARGETS))
    torch.manual_seed(3)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return merge(adapter)


def test_untied_as_the_message_says_ours_fused_and_pefts_are_what_was_trained(tmp_path):
    model = untied(tied_llama(), tmp_path / "base")
    base = logits_of(model)
    plain = lora_of(model)
    trained = logits_of(model)
    plain.save_peft(tmp_path / "peft", str(tmp_path / "base"), "CAUSAL_LM")
    fused = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    plain.fuse_into(fused)
    fused.save_pretrained(tmp_path / "fused")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "fused")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft")
    for one in (again, loaded, loaded.merge_and_unload()):
        torch.testing.assert_close(logits_of(one), trained, rtol=1e-4, atol=1e-5)
    assert (trained - base).abs().max() > 0.1
    assert torch.equal(again.model.embed_tokens.weight, model.model.embed_tokens.weight)
