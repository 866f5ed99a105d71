"""After training a text model: merges, evaluation of every variant, the files for others, results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from ..adapter.adapter import ResLoRAAdapter
from ..merging.plain_lora import PlainLoRA
from ..runs.folder import RunFolder
from ..runs.jsonl import is_number
from ..runs.names import FUSED_FOLDER, PEFT_FOLDER, REPORT_FILE, RESULTS_FILE, default_approach
from .baselines import fused as fused_by_peft
from .card import write_card
from .encode import generate_answers
from .evaluate import Batch, merge_by_every_approach, table
from .methods import Attached
from .models import base_reference
from .trainer import head_parameters, save_trained

Contexts = Mapping[str, Callable[[], AbstractContextManager[None]]]


def accuracies(
    model: nn.Module,
    contexts: Contexts,
    task: Any,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    batch_size: int,
    max_length: int,
    max_new_tokens: int | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, list[str | None]]]:
    """Of every variant, by generation: `accuracy`, the share of right answers, where a prompt over the limit counts as
    wrong; and `unreadable`, the share of answers in which there is no number, or no option.

    Args:
        max_new_tokens: of an answer; left out, the task's.

    Returns:
        both figures, and the answers themselves.
    """
    figures, texts = {}, {}
    prompts = [task.prompt(row) for row in rows]
    for name, context in contexts.items():
        with context():
            tokens = max_new_tokens or task.max_new_tokens
            answers, _ = generate_answers(model, tokenizer, prompts, batch_size, max_length, tokens, task.stop)
        right = [text is not None and task.is_correct(text, row) for text, row in zip(answers, rows, strict=True)]
        given = [text for text in answers if text is not None]
        unreadable = sum(not task.is_readable(text) for text in given) / max(1, len(given))
        figures[name], texts[name] = {"accuracy": sum(right) / len(right), "unreadable": unreadable}, answers
    return figures, texts


def calibration_rows(
    attached: Attached, examples: Sequence[Mapping[str, Any]], asked: int | None
) -> list[Mapping[str, Any]]:
    """The training rows that merging takes its statistics from: the first `asked`; none where nothing is merged.

    Left out, there are 256, and more of short ones: 32 tokens for each input feature of the widest block, as least
    squares solves for that many. (With 8, on CoLA, its merge was twice as far from the unmerged model.)
    """
    if attached.adapter is None:
        return []
    if asked is not None:
        return list(examples[:asked])
    wanted = 32 * max(block.lora_A.shape[1] for block in attached.adapter.blocks.values())
    rows: list[Mapping[str, Any]] = []
    tokens = 0
    for example in examples:
        if len(rows) >= 256 and tokens >= wanted:
            break
        rows.append(example)
        tokens += len(example["input_ids"])
    return rows


def merged_variants(
    attached: Attached, calibration: Iterable[Batch], alpha_from: str = "weights"
) -> tuple[dict[str, PlainLoRA], Contexts]:
    """All merges of our methods (none of others), and the contexts of every variant."""
    plains = {}
    if attached.adapter is not None:
        plains = merge_by_every_approach(attached.adapter, calibration, alpha_from)
    return plains, attached.contexts(plains)


def export(
    attached: Attached,
    plains: Mapping[str, PlainLoRA],
    folder: Path,
    tokenizer: Any,
    about: Mapping[str, Any],
    task_type: str,
    fused: bool,
    classes: Sequence[str] | None = None,
) -> None:
    """Writes the training form, PEFT's folder of the default merge, and, if wanted, the fused model; says how to load.

    The adapter is taken out of the model. PEFT's own methods are saved by PEFT, `full` by transformers.

    Args:
        about: run.json's words.
        classes: of a classifier: the names of its outputs; one for a score.
    """
    adapter, model = attached.adapter, attached.model
    base = base_reference(about["base_model"])
    if attached.method == "full":
        _save_model(model, tokenizer, folder)
        return
    if adapter is None:
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.task_type = base, task_type
        model.save_pretrained(str(folder / PEFT_FOLDER))
    else:
        save_trained(adapter, folder)
        head = {name: parameter.detach().cpu() for name, parameter in head_parameters(model).items()}
        plain = plains[default_approach(adapter.config.residual)]
        plain.save_peft(folder / PEFT_FOLDER, base, task_type, head)
    call = write_card(folder / PEFT_FOLDER, about["base_model"], task_type, about, classes)
    print(f"Load the adapter: {call}")
    if adapter is not None:
        adapter.remove()
    if fused:
        if adapter is None:
            model = fused_by_peft(model)
        else:
            plain.fuse_into(model)
        _save_model(model, tokenizer, folder)


def _save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(str(folder / FUSED_FOLDER))
    tokenizer.save_pretrained(str(folder / FUSED_FOLDER))


def describe_run(
    arguments: Mapping[str, Any], attached: Attached, base_model: str, data: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """What run.json says.

    Args:
        arguments: from `TextSettings.to_arguments`.
        data: the task's name, where its rows come from, and how many there are.
    """
    adapter: ResLoRAAdapter | None = attached.adapter
    return {
        "method": attached.method,
        "arguments": dict(arguments),
        "base_model": base_model,
        "dataset": dict(data),
        "seed": seed,
        "targets": list(attached.targets),
        "lora_config": adapter.config.to_dict() if adapter else None,
        "trainable_parameters": attached.trainable,
        "link_plan": adapter.link_plan().to_list() if adapter else [],
        **attached.paths,
    }


def report(
    run: RunFolder,
    settings: Mapping[str, Any],
    results: Mapping[str, Mapping[str, float]],
    plains: Mapping[str, PlainLoRA] | None = None,
) -> dict[str, Any]:
    """Writes results.json and merge_report.json, prints the table, and gives what results.json says.

    Before the files for others: whatever happens to these, the figures of a long evaluation are there.
    """
    log = run.log_rows()
    seconds, memory = ([row[key] for row in log if is_number(row.get(key))] for key in ("seconds", "memory"))
    found = {
        **{key: settings[key] for key in ("method", "base_model", "dataset", "seed", "trainable_parameters")},
        "learning_rate": settings["arguments"]["learning_rate"],
        "steps": settings["steps"],
        "seconds_per_step": round(fmean(seconds or [0.0]), 4),
        "peak_memory_mb": max(memory, default=0.0),
        "calibration_rows": settings["calibration_rows"],
        "validation_loss": settings.get("validation_loss"),
        **{
            key: settings[key] for key in ("steps_per_epoch", "by_epoch", "evaluations", "best_step") if key in settings
        },
        "results": {name: dict(row) for name, row in results.items()},
    }
    run.finish(RESULTS_FILE, found)
    if plains:
        run.finish(REPORT_FILE, _merge_report(settings, plains))
    if results:
        print(table(results))
    print(
        f"{found['method']}: {found['trainable_parameters']:,} trainable parameters, {found['seconds_per_step']:.2f} s "
        f"a step, {found['peak_memory_mb']:.0f} MB at most while training. Everything is in {run.path}."
    )
    return found


def _merge_report(settings: Mapping[str, Any], plains: Mapping[str, PlainLoRA]) -> dict[str, Any]:
    """Of every block: factors, error, norms; as a run of pictures reports them."""
    exported = default_approach(settings["lora_config"]["residual"])
    blocks = {name: plain.summary()["blocks"] for name, plain in plains.items()}
    others = {name: found for name, found in blocks.items() if name != exported}
    return {"approach": exported, "blocks": blocks[exported], "other_approaches": others}
