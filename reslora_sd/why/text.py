"""A language model and a generation task's rows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..adapter.adapter import ResLoRAAdapter
from ..modes import evaluating
from ..text.encode import batches_of, encode, padding
from ..text.evaluate import measure_answers, run_model
from ..text.methods import attach
from ..text.models import load_causal_lm
from ..text.read import keep_apart
from ..text.settings import TextMethod
from ..text.tasks import read_train, task_named
from ..training.method import AnyMethod
from .problem import Kind


class Text:
    """See `Problem`.

    Args:
        model: `smollm2`, a folder or a name on the Hub.
        task: whose answers are learned.
        train_file: its rows, as the training script takes them.
        kept: how many of them the held-out loss is of.
        measured: how many of them the paths are measured on.
    """

    name = "text"
    max_grad_norm = 1.0

    def __init__(
        self,
        model: str,
        task: str,
        train_file: str | None,
        batch_size: int = 8,
        kept: int = 64,
        measured: int = 256,
        rank: int = 4,
    ) -> None:
        self.model, tokenizer = load_causal_lm(model)
        rows = hashlib.sha256(Path(train_file).read_bytes()).hexdigest() if train_file else None
        self.asked: dict[str, Any] = {
            "task": task,
            "rows": rows,
            "batch_size": batch_size,
            "kept": kept,
            "measured": measured,
            "rank": rank,
        }
        found = task_named(task)
        train, apart = keep_apart(read_train(found, train_file, None, 0), kept)
        self.batch_size, self.rank, self.rows_measured = batch_size, rank, measured
        self.pad = padding(tokenizer)
        self.rows = encode(train, found, tokenizer, 512).examples
        self.apart = [self.pad(list(part)) for part in batches_of(encode(apart, found, tokenizer, 512).examples, 16)]

    def adapt(self, kind: Kind, seed: int) -> ResLoRAAdapter:
        method = TextMethod(
            method=cast(AnyMethod, kind.method),
            first_block=cast(Any, kind.first_block),
            rank=self.rank,
            lora_alpha=2.0 * self.rank,
        )
        adapter = attach(self.model, method, total_steps=1, seed=seed, keep_base=False).adapter
        assert adapter is not None
        return adapter

    def _order(self, seed: int) -> list[int]:
        order = list(range(len(self.rows)))
        random.Random(seed).shuffle(order)
        return order

    def _batch(self, seed: int, step: int) -> Any:
        order = self._order(seed)
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return self.pad([self.rows[order[place % len(order)]] for place in places])

    def measured(self, seed: int) -> Iterator[Any]:
        return (self._batch(seed, step) for step in range(self.rows_measured // self.batch_size))

    def forward(self, batch: Any) -> object:
        return run_model(self.model, batch)

    def token_mask(self, batch: Any) -> Tensor | None:
        mask: Tensor = batch["attention_mask"].bool()
        return mask

    def loss(self, seed: int, step: int) -> Tensor:
        loss: Tensor = self.model(**self._batch(seed, step)).loss
        return loss

    def held_out(self) -> float:
        with evaluating(self.model), torch.no_grad():
            return measure_answers(self.model, {"unmerged": nullcontext}, self.apart)["unmerged"]["answer_loss"]
