"""PEFT's methods behind our switch."""

import peft
import pytest
import torch
import transformers

from reslora_sd.text.baselines import add_peft_baseline, ranks
from tests.texts import small_llama, tokens_for


def wrapped(method, steps=20, dtype=torch.float32, **changed):
    model = small_llama(dtype=dtype).requires_grad_(False)
    settings = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.0, "total_steps": steps, "modules_to_save": (), **changed}
    torch.manual_seed(0)
    return add_peft_baseline(model, method, ("q_proj", "v_proj"), **settings)


def fit(model, callbacks, tmp_path, steps=20):
    """Trains on eight random rows, and gives the losses."""
    ids = tokens_for(model, batch=8, length=9)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=0.02,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("method", ["adalora", "loha", "lokr"])
def test_they_train_on_our_targets_in_float32(method, tmp_path):
    model, callbacks = wrapped(method)
    assert sorted(model.targeted_module_names) == sorted(
        f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(5) for name in "qv"
    )
    losses = fit(model, callbacks, tmp_path)
    assert losses[-1] < losses[0]
    half, _ = wrapped(method, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters() if parameter.requires_grad} == {torch.float32}


def test_adaloras_ranks_change_and_end_at_the_rank_on_average(tmp_path):
    model, callbacks = wrapped("adalora")
    fit(model, callbacks, tmp_path)
    found = list(ranks(model).values())
    assert len(found) == 10 and sum(found) == 40 and max(found) > min(found)


def test_adalora_without_a_change_is_an_error(tmp_path):
    model, callbacks = wrapped("adalora", steps=10_000)
    with pytest.raises(RuntimeError, match="changed no rank in 3 steps"):
        fit(model, callbacks, tmp_path, steps=3)


def test_a_head_that_trains_whole_is_saved(tmp_path):
    model, _ = wrapped("lokr", modules_to_save=("lm_head",))
    trained = dict(model.named_parameters())["base_model.model.lm_head.modules_to_save.default.weight"]
    assert trained.requires_grad
    torch.nn.init.constant_(trained, 0.5)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(small_llama(seed=1), tmp_path)
    found = dict(again.named_parameters())["base_model.model.lm_head.modules_to_save.default.weight"]
    assert torch.equal(found, trained) and (found == 0.5).all()
