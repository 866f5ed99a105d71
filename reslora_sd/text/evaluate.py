"""Evaluation before and after merging: one trained adapter, every approach, the same measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.adapter import ResLoRAAdapter
from ..merging.applied import applied
from ..merging.merge import merge
from ..merging.plain_lora import PlainLoRA
from ..merging.statistics import collect_statistics
from ..modes import evaluating
from ..runs.names import APPROACHES, alpha_from_of
from .encode import IGNORED

Batch = Mapping[str, Tensor]


def merge_by_every_approach(
    adapter: ResLoRAAdapter, batches: Iterable[Batch], alpha_from: str = "weights"
) -> dict[str, PlainLoRA]:
    """All approaches of the adapter's residual, on the same statistics of `batches`; padding doesn't count.

    Args:
        alpha_from: of `weights`, as `merge` takes it.
    """
    statistics = collect_statistics(
        adapter,
        batches,
        lambda batch: run_model(adapter.model, batch),
        token_mask=lambda batch: batch["attention_mask"].bool(),
    )
    return {
        name: merge(adapter, name, statistics, alpha_from=alpha_from_of(name, alpha_from))
        for name in APPROACHES[adapter.config.residual]
    }


def variants(
    adapter: ResLoRAAdapter, plains: Mapping[str, PlainLoRA]
) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """Contexts in which the model is the base model, the unmerged one, and merged by each approach."""
    contexts: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "base": adapter.disabled,
        "unmerged": nullcontext,
    }
    for name, plain in plains.items():
        contexts[f"merged: {name}"] = lambda plain=plain: applied(plain, adapter.model)  # type: ignore[misc]
    return contexts


@torch.no_grad()
def run_model(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of a batch, without its labels.  -> (batch, tokens, vocabulary) or (batch, labels)"""
    device = next(model.parameters()).device
    logits: Tensor = model(**{key: value.to(device) for key, value in batch.items() if key != "labels"}).logits
    return logits


def measure_answers(
    model: nn.Module, contexts: Mapping[str, Callable[[], AbstractContextManager[None]]], batches: Sequence[Batch]
) -> dict[str, dict[str, float]]:
    """Of every variant: negative log-likelihood of the answers, nats per token, and `kl`: mean Kullback-Leibler
    divergence KL(unmerged || variant) of the next-token distribution over the answers' tokens, nats.

    Args:
        contexts: from `variants`; must hold `unmerged`.
        batches: `input_ids`, `attention_mask` and `labels`, (batch, tokens) each; `IGNORED` labels don't count.
    """
    loss, divergence, tokens = dict.fromkeys(contexts, 0.0), dict.fromkeys(contexts, 0.0), 0
    with evaluating(model):
        for batch in batches:
            labels = batch["labels"][:, 1:]
            counts = labels != IGNORED  # (batch, tokens - 1)
            target = labels[counts]
            reference = _answer_distributions(model, batch, counts)  # (answer tokens, vocabulary)
            tokens += len(target)
            for name, context in contexts.items():
                with context():
                    found = reference if name == "unmerged" else _answer_distributions(model, batch, counts)
                loss[name] -= float(found.gather(1, target[:, None]).double().sum())
                divergence[name] += float((reference.exp() * (reference - found)).double().sum())
    return {name: {"answer_loss": loss[name] / tokens, "kl": max(0.0, divergence[name] / tokens)} for name in contexts}


def _answer_distributions(model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
    """Log-probabilities of the tokens that follow, where these are an answer's.  -> (answer tokens, vocabulary)"""
    logits = run_model(model, batch)[:, :-1].cpu()
    return logits[counts].float().log_softmax(-1)


def measure_classes(
    model: nn.Module,
    contexts: Mapping[str, Callable[[], AbstractContextManager[None]]],
    batches: Sequence[Batch],
    metrics: Callable[[Any, Any], dict[str, float]],
    regression: bool = False,
    outputs: Sequence[int] | None = None,
    predictions: dict[str, list[float]] | None = None,
) -> dict[str, dict[str, float]]:
    """Of every variant: the task's metrics, `loss`, and `kl`: KL(unmerged || variant) of the classes, nats; for a
    regression the mean squared difference from the unmerged one stands under `kl`.

    Args:
        batches: with `labels`, (batch,).
        metrics: (predictions, labels) -> figures by name; predictions are class numbers, or scores of a regression.
        outputs: the model's output for each class, where its order is its own; metrics get the task's class numbers.
        predictions: gets, of every variant, the class numbers of the rows, or their scores.
    """
    labels = torch.cat([batch["labels"] for batch in batches]).cpu()
    if outputs is not None and not regression:
        labels = torch.tensor(outputs).argsort()[labels]
    found = {}
    with evaluating(model):
        for name, context in contexts.items():
            with context():
                logits = torch.cat([run_model(model, batch).float().cpu() for batch in batches])
                found[name] = logits if outputs is None or regression else logits[:, list(outputs)]
                if predictions is not None:
                    predictions[name] = (found[name].squeeze(-1) if regression else found[name].argmax(-1)).tolist()
    return {
        name: _class_figures(logits, found["unmerged"], labels, metrics, regression) for name, logits in found.items()
    }


def _class_figures(
    logits: Tensor, unmerged: Tensor, labels: Tensor, metrics: Callable[[Any, Any], dict[str, float]], regression: bool
) -> dict[str, float]:
    """What `measure_classes` gives of one variant."""
    if regression:
        predictions, target = logits.squeeze(-1), labels.float()
        loss = (predictions - target).square().mean()
        divergence = (predictions - unmerged.squeeze(-1)).square().mean()
    else:
        predictions = logits.argmax(-1)
        loss = nn.functional.cross_entropy(logits, labels)
        reference, other = unmerged.log_softmax(-1), logits.log_softmax(-1)
        divergence = (reference.exp() * (reference - other)).sum(-1).mean().clamp(min=0)
    figures = metrics(predictions.numpy(), labels.numpy())
    return {**figures, "loss": float(loss), "kl": float(divergence)}


def table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """A row for each variant, a column for each figure."""
    columns = list(dict.fromkeys(key for row in results.values() for key in row))
    width = max(len(name) for name in results)
    lines = [" " * width + "".join(f"{column:>{max(12, len(column) + 2)}}" for column in columns)]
    for name, row in results.items():
        cells = (_cell(row.get(column)).rjust(max(12, len(column) + 2)) for column in columns)
        lines.append(name.ljust(width) + "".join(cells))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"
