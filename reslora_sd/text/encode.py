"""Rows of a generation task as token ids: prompts and answers, lengths counted, batches padded."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
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

    Both are tokenized as one text: alone, an answer starts with another token for tokenizers such as Llama 2's, which
    put a space before every text.

    Args:
        task: a `GenerationTask`: its `prompt(row)` and `target(row)` are the two texts.

    Raises:
        ValueError: no row fits, or there is none.
    """
    examples, kept, too_long = [], [], 0
    for row in rows:
        prompt = task.prompt(row)
        joined = open_tokens(prompt + task.target(row), tokenizer)
        known, whole = _shared_start(open_tokens(prompt, tokenizer), joined), [*joined, tokenizer.eos_token_id]
        if len(whole) > max_length:
            too_long += 1
            continue
        examples.append({"input_ids": whole, "labels": [IGNORED] * known + whole[known:]})
        kept.append(row)
    if not examples:
        raise ValueError(
            f"None of {len(rows)} rows of {task.name} fits into {max_length} tokens. Raise --max_length, or look "
            "at the data file."
        )
    return Encoded(examples, kept, too_long)


def open_tokens(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text that goes on: without the end of text that some tokenizers add."""
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token) else ids


def _shared_start(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike: where prompt and answer share a token, it is the answer's."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


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
    tokenized = [open_tokens(prompt, tokenizer) for prompt in prompts]
    lengths = [len(ids) for ids in tokenized]
    # equal lengths together, so that little is padding
    order = sorted((i for i, length in enumerate(lengths) if length <= max_length), key=lambda i: lengths[i])
    answers: list[str | None] = [None] * len(prompts)
    with evaluating(model):
        for chosen in batches_of(order, batch_size):
            ids, mask = _padded_on_the_left([tokenized[i] for i in chosen], tokenizer.pad_token_id)
            tokens = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                stopping_criteria=[_Ended(tokenizer, ids.shape[1], stop)] if stop else [],
            )
            new = tokens[:, ids.shape[1] :]
            for i, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                answers[i] = cut(text, stop) if stop else text
    return answers, len(prompts) - len(order)


def _padded_on_the_left(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their mask.  -> (batch, tokens) long each"""
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
