"""Rows of a generation task as token ids: prompts and answers, lengths counted, batches padded."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, StoppingCriteria

from ..modes import evaluating
from .answers import cut

IGNORED = -100
"""Label of tokens that the loss leaves out: the prompt's and padding."""


@dataclass(frozen=True)
class Encoded:
    """Examples that fit, and what was left out."""

    examples: list[dict[str, list[int]]]
    """`input_ids` and `labels` (`IGNORED` for the prompt) of prompt, answer and end of text."""
    rows: list[Mapping[str, Any]]
    """The rows that they come from, in the same order."""
    too_long: int
    """How many rows have more tokens than the limit, and are left out."""

    def __len__(self) -> int:
        return len(self.examples)


def encode(rows: Sequence[Mapping[str, Any]], task: Any, tokenizer: Any, max_length: int) -> Encoded:
    """Prompt, answer and end of text of every row as tokens; rows over `max_length` tokens are counted, not cut.

    Args:
        task: a `GenerationTask`: its `prompt(row)` and `target(row)` are the two texts.

    Raises:
        ValueError: no row fits, or there is none.
    """
    examples, kept, too_long = [], [], 0
    for row in rows:
        prompt = tokenizer(task.prompt(row))["input_ids"]
        answer = tokenizer(task.target(row), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if len(prompt) + len(answer) > max_length:
            too_long += 1
            continue
        examples.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
        kept.append(row)
    if not examples:
        raise ValueError(
            f"None of {len(rows)} rows of {task.name} fits into {max_length} tokens. Raise --max_length, or look "
            "at the data file."
        )
    return Encoded(examples, kept, too_long)


def padding(tokenizer: Any) -> DataCollatorForSeq2Seq:
    """A collator that pads a batch on the right to its longest example, whatever the tokenizer's own side is.

    It gives `input_ids`, `attention_mask` and `labels`.  -> (batch, tokens) long each
    """
    on_the_right = copy.copy(tokenizer)
    on_the_right.padding_side = "right"
    return DataCollatorForSeq2Seq(on_the_right, label_pad_token_id=IGNORED)


def batches_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive slices of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """Whether each row of a batch holds a whole answer.

    Args:
        start: length of the prompts.
    """

    def __init__(self, tokenizer: Any, start: int, stop: re.Pattern[str]) -> None:
        self.tokenizer, self.start, self.stop = tokenizer, start, stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **more: Any) -> torch.Tensor:
        """(batch, tokens) -> (batch,) bool"""
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([self.stop.search(text) is not None for text in texts], device=input_ids.device)


@torch.no_grad()
def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    batch_size: int,
    max_length: int,
    max_new_tokens: int,
    stop: re.Pattern[str] | None = None,
) -> tuple[list[str | None], int]:
    """Greedy answers with a KV cache, batched with padding on the left; `None` for prompts over `max_length` tokens.

    Args:
        stop: an answer ends where this ends, and is not generated further.

    Returns:
        an answer for each prompt, and how many prompts were too long.
    """
    lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    # equal lengths together, so that little is padding
    order = sorted((i for i, length in enumerate(lengths) if length <= max_length), key=lambda i: lengths[i])
    answers: list[str | None] = [None] * len(prompts)
    with evaluating(model), _padding_on_the_left(tokenizer):
        for chosen in batches_of(order, batch_size):
            batch = tokenizer([prompts[i] for i in chosen], padding=True, return_tensors="pt").to(model.device)
            tokens = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                stopping_criteria=[_Ended(tokenizer, batch["input_ids"].shape[1], stop)] if stop else [],
            )
            new = tokens[:, batch["input_ids"].shape[1] :]
            for i, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                answers[i] = cut(text, stop) if stop else text
    return answers, len(prompts) - len(order)


@contextmanager
def _padding_on_the_left(tokenizer: Any) -> Iterator[None]:
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side = side
