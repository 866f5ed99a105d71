"""Rows as tokens, batches, and generated answers."""

import re

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.text.answers import cut
from reslora_sd.text.encode import IGNORED, encode, generate_answers, open_tokens, padding
from reslora_sd.text.models import load_causal_lm
from reslora_sd.text.tasks import read_train, task_named
from tests.texts import byte_tokenizer, save_small_llama, write_svamp


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def test_only_answer_and_end_of_text_are_learned(tmp_path):
    tokenizer, task = byte_tokenizer(), task_named("svamp")
    rows = read_train(task, str(write_svamp(tmp_path / "rows.jsonl", 3)), None, 0)
    one = encode(rows, task, tokenizer, 512).examples[0]
    learned = [token for token, label in zip(one["input_ids"], one["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(learned) == task.target(rows[0]) + "</s>"
    assert tokenizer.decode(one["input_ids"]) == task.prompt(rows[0]) + task.target(rows[0]) + "</s>"


def test_rows_that_are_too_long_are_counted_not_cut(tmp_path):
    tokenizer, task = byte_tokenizer(), task_named("svamp")
    rows = read_train(task, str(write_svamp(tmp_path / "rows.jsonl", 20)), None, 0)
    lengths = [len(one["input_ids"]) for one in encode(rows, task, tokenizer, 512).examples]
    limit = min(lengths)
    found = encode(rows, task, tokenizer, limit)
    assert found.too_long == sum(length > limit for length in lengths) > 0
    assert [len(one["input_ids"]) for one in found.examples] == [length for length in lengths if length <= limit]
    with pytest.raises(ValueError, match="None of 20 rows of svamp fits into 3 tokens"):
        encode(rows, task, tokenizer, 3)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_on_the_right_and_padding_is_not_learned(side):
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = side
    batch = padding(tokenizer)([{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    expected = {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[IGNORED, 6, 7], [8, IGNORED, IGNORED]],
    }
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert tokenizer.padding_side == side


def test_an_end_of_text_that_also_pads_is_attended_to_and_learned_where_it_ends_an_answer():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token  # as in many models, SmolLM2 among them
    end = tokenizer.eos_token_id
    batch = padding(tokenizer)(
        [{"input_ids": [5, end], "labels": [5, end]}, {"input_ids": [6, 7, 8, end], "labels": [IGNORED] * 2 + [8, end]}]
    )
    assert batch["input_ids"].tolist() == [[5, end, end, end], [6, 7, 8, end]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[5, end, IGNORED, IGNORED], [IGNORED, IGNORED, 8, end]]


@pytest.mark.parametrize("residual", ["none", "input", "block", "middle"])
def test_batched_answers_with_a_cache_are_those_of_one_prompt_without(llama, residual):
    """Left padding and the KV cache change no token, with paths unmerged."""
    model, tokenizer = load_causal_lm(str(llama))
    torch.manual_seed(1)
    adapter = add_reslora(model, ResLoRAConfig(residual=residual, target_modules=("q_proj", "v_proj"), r=4))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts = ["a", "a much longer prompt than the first", "in between"]
    together, too_long = generate_answers(model, tokenizer, prompts, 3, 64, 12)
    alone = []
    for prompt in prompts:
        tokens = torch.tensor([tokenizer(prompt)["input_ids"]])
        made = model.generate(tokens, max_new_tokens=12, do_sample=False, use_cache=False, pad_token_id=0)
        alone.append(tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True))
    assert together == alone and too_long == 0


def test_a_prompt_over_the_limit_has_no_answer_and_is_counted(llama):
    model, tokenizer = load_causal_lm(str(llama))
    answers, too_long = generate_answers(model, tokenizer, ["short", "x" * 80], 8, 64, 4)
    assert answers[0] is not None and answers[1] is None and too_long == 1
    assert tokenizer.padding_side == "right"


def test_generation_stops_where_the_answer_ends(llama, monkeypatch):
    """Each row of a batch by itself; nothing behind it is in the answer."""
    model, tokenizer = load_causal_lm(str(llama))
    prompts = ["a", "a much longer prompt than the first", "in between"]
    whole, _ = generate_answers(model, tokenizer, prompts, 3, 64, 12)
    said = str(whole[0])
    stop = re.compile(re.escape(said[1:3]))
    made, generate = [], model.generate

    def note(**given):
        made.append(generate(**given))
        return made[-1]

    monkeypatch.setattr(model, "generate", note)
    answers, _ = generate_answers(model, tokenizer, prompts[:1], 3, 64, 12, stop)
    assert answers == [said[:3]] and made[0].shape[1] < len(tokenizer(prompts[0])["input_ids"]) + 12
    together, _ = generate_answers(model, tokenizer, prompts, 3, 64, 12, stop)
    assert together == [cut(str(text), stop) for text in whole]


def llama2_tokenizer():
    """As Llama 2's: every text gets a space in front, spaces are letters of the tokens, and words end at them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    letters = [chr(code) for code in range(33, 127)]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=[*letters, "\n", "\u2581"], show_progress=False
    )
    texts = [
        f"Question: Tom has {i} pens and gives {i} away. How many are left?\nAnswer: ({i} - {i}) = 0" for i in range(40)
    ]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def wrap(tokenizer):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.mark.parametrize("ends", [False, True])
def test_prompt_and_answer_have_the_tokens_of_the_joined_text(tmp_path, ends):
    raw, task = llama2_tokenizer(), task_named("svamp")
    tokenizer = wrap(raw)
    rows = read_train(task, str(write_svamp(tmp_path / "rows.jsonl", 3)), None, 0)
    prompt, target = task.prompt(rows[0]), task.target(rows[0])
    joined, alone = tokenizer(prompt + target)["input_ids"], tokenizer(target, add_special_tokens=False)["input_ids"]
    assert joined[-len(alone) :] != alone  # what is at stake
    if ends:  # as with add_eos_token
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        tokenizer = wrap(raw)
    one = encode(rows, task, tokenizer, 512).examples[0]
    assert one["input_ids"] == [*joined, 2]
    learned = [label for label in one["labels"] if label != IGNORED]
    assert tokenizer.decode(one["input_ids"][: -len(learned)], skip_special_tokens=True) == prompt
    assert tokenizer.decode(learned, skip_special_tokens=True) == target.strip()
    assert open_tokens(prompt, tokenizer) == one["input_ids"][: -len(learned)]  # what generation starts from


def test_a_token_that_prompt_and_answer_share_is_learned():
    class Joins:
        eos_token, eos_token_id = "$", 9

        def __call__(self, text):
            return {"input_ids": [len(part) for part in re.findall("a+|[^a]", text)]}

    class Task:
        name, prompt, target = "t", staticmethod(lambda row: "xaa"), staticmethod(lambda row: "aax")

    (one,) = encode([{}], Task, Joins(), 9).examples
    assert one == {"input_ids": [1, 4, 1, 9], "labels": [IGNORED, 4, 1, 9]}
