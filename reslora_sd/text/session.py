"""What both text scripts do around transformers' Trainer: make it, start or resume it, say what trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import Trainer, TrainingArguments

from ..adapter.text import gradient_checkpointing_kwargs
from ..runs.folder import RunFolder, find_checkpoint, step_of
from ..training.distributed import leave_process_group
from .methods import Attached
from .trainer import ResLoRATrainer, StepLog

logger = logging.getLogger("reslora_sd")


def find_resumed(training: TrainingArguments, overwrite: bool) -> tuple[RunFolder, int]:
    """The run folder, and the step from which the run goes on (0: from the start).

    `--resume_from_checkpoint` becomes a path.

    Raises:
        ValueError: the folder can't be used.
        FileNotFoundError: it holds no such checkpoint.
    """
    run = RunFolder(training.output_dir)
    asked = training.resume_from_checkpoint
    run.check(resume=asked is not None, overwrite=overwrite)
    if asked is None:
        return run, 0
    checkpoint = find_checkpoint(run.path, str(asked))
    training.resume_from_checkpoint = str(checkpoint)
    return run, step_of(checkpoint)


def total_steps(training: TrainingArguments, rows: int) -> int:
    """Optimizer steps of the whole training, over so many rows."""
    if training.max_steps > 0:
        return int(training.max_steps)
    at_once = int(training.train_batch_size * training.world_size)
    steps_an_epoch = math.ceil(math.ceil(rows / at_once) / training.gradient_accumulation_steps)
    steps: float = steps_an_epoch * training.num_train_epochs
    return math.ceil(steps)


def make_trainer(
    attached: Attached,
    training: TrainingArguments,
    examples: Sequence[Any],
    collator: Callable[[Sequence[Any]], Mapping[str, Any]],
    tokenizer: Any,
    log: StepLog,
) -> Trainer:
    """transformers' Trainer; with checkpoints of our own where the adapter is ours."""
    if training.gradient_checkpointing:
        ours = gradient_checkpointing_kwargs() if attached.adapter is not None else {"use_reentrant": False}
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):  # new, old name
            if hasattr(training, name):
                setattr(training, name, {**(getattr(training, name) or {}), **ours})
    given: dict[str, Any] = {
        "model": attached.model,
        "args": training,
        "train_dataset": examples,
        "data_collator": collator,
        "processing_class": tokenizer,
        "callbacks": [log, *attached.callbacks],
    }
    if attached.adapter is not None:
        return ResLoRATrainer(**given, adapter=attached.adapter)
    if attached.method == "adalora":
        from .baselines import AdaLoRATrainer

        return AdaLoRATrainer(**given)
    return Trainer(**given)


def train(trainer: Trainer, attached: Attached, run: RunFolder, settings: dict[str, Any], resumed_at: int) -> bool:
    """Trains from the start or the checkpoint; one that is at the end already is only taken up.

    Returns:
        whether this process is the one that evaluates.
    """
    is_main = bool(trainer.is_world_process_zero())
    if is_main:
        run.create(settings, resumed_at)
        logger.info("%s trainable parameters, %d training rows", f"{attached.trainable:,}", len(trainer.train_dataset))
        if attached.adapter is not None:
            logger.info("%s", attached.adapter.link_plan())
    checkpoint = trainer.args.resume_from_checkpoint
    if resumed_at >= total_steps(trainer.args, len(trainer.train_dataset)):
        trainer._load_from_checkpoint(checkpoint)
        trainer.state.global_step = resumed_at
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
        # what follows is measured in the weights' precision, without the autocast that training put on forward
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    # the main process goes on alone; one that ended with its group's threads running could be aborted
    trainer.model_wrapped = trainer.model
    leave_process_group(trainer.accelerator)
    return is_main
