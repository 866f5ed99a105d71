"""What both text scripts do around transformers' Trainer: make it, start or resume it, say what trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from ..adapter.text import gradient_checkpointing_kwargs
from ..files.pickles import check_pickles
from ..runs.checkpoints import refusal, step_of
from ..runs.folder import RunFolder
from ..runs.stopping import stop_requests
from ..training.distributed import asked_anywhere, check_accumulation, leave_process_group
from ..training.resuming import check_unchanged, checkpoint_to_resume, is_same_place
from .frozen_paths import paths_of
from .methods import Attached
from .settings import TextSettings
from .trainer import MEASURED, MeasuredEpochs, ResLoRATrainer, ResumedRun, RunTrainer, StepLog, StopWhenAsked

logger = logging.getLogger("reslora_sd")

_FIXED = frozenset(
    """
    method rank lora_alpha lora_dropout pre_num first_block path_samples target_modules model dtype
    task train_file max_length max_train_samples validation_samples
    seed per_device_train_batch_size gradient_accumulation_steps lr_scheduler_type warmup_steps
    data_seed train_sampling_strategy dataloader_drop_last lr_scheduler_kwargs optim optim_args label_smoothing_factor
    neftune_noise_alpha
    """.split()
)
"""Flags that a resumed run shares with its first part; the others' new values count from the checkpoint on."""
_WHILE_TRAINING = ("eval_strategy", "eval_on_start", "load_best_model_at_end")
_LOSS = (None, "loss", "eval_loss")
_OF_EVALUATIONS = frozenset(
    """
    per_device_eval_batch_size eval_steps eval_delay eval_accumulation_steps eval_do_concat_batches
    eval_use_gather_object prediction_loss_only batch_eval_metrics include_for_metrics bf16_full_eval fp16_full_eval
    metric_for_best_model greater_is_better
    """.split()
)
"""Of TrainingArguments, those of evaluations while training."""
_UNUSED = frozenset(("do_train", "do_eval", "do_predict"))
"""Those of transformers' own scripts."""


def _breaks(name: str, before: Any, now: Any) -> bool:
    """Whether a run can't go on with the value `now` of a flag."""
    same = is_same_place(before, now) if name in ("model", "train_file") else before == now
    return name in _FIXED and not same


def find_resumed(settings: TextSettings[Any]) -> tuple[RunFolder, int]:
    """The run folder, and the step from which the run goes on (0: from the start).

    `--resume_from_checkpoint` becomes a path.

    Raises:
        ValueError: the folder holds another run; the checkpoint lacks a part, or would execute something; or a flag has
            another value than in the run and would make it another; or the launcher's accumulation isn't the flag's; or
            a flag of TrainingArguments asks for what the scripts don't do.
        FileNotFoundError: it holds no such checkpoint.
    """
    training, overwrite = settings.training, settings.output.overwrite_output_dir
    check_accumulation(training.gradient_accumulation_steps)
    _check_used(settings.training_values, settings.data.validation_samples)
    run = RunFolder(training.output_dir)
    asked = training.resume_from_checkpoint
    checkpoint = checkpoint_to_resume(run, None if asked is None else str(asked), overwrite)
    check_unchanged(run, checkpoint, settings.to_arguments(), _breaks)
    if checkpoint is None:
        training.resume_from_checkpoint = None
        return run, 0
    check_pickles(checkpoint)
    try:
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(refusal(checkpoint, f"trainer_state.json is not what was written: {error}.")) from error
    training.resume_from_checkpoint = str(checkpoint)
    return run, step_of(checkpoint)


def _check_used(values: Mapping[str, Any], validation_samples: int) -> None:
    """Refuses flags of TrainingArguments that can't be followed here, and names those that change nothing.

    Raises:
        ValueError: one asks for evaluation while training without rows for it, or by another figure than their loss,
            or for a warm-up of a schedule without one; or nothing would be learned.
    """
    asked = [name for name in _WHILE_TRAINING if values.get(name) not in (None, False, "no")]
    if asked and not validation_samples:
        raise ValueError(
            f"--{asked[0]} is {values[asked[0]]}, and there are no rows to evaluate on while training: test rows "
            "choose nothing. Keep training rows apart with --validation_samples."
        )
    if values.get("metric_for_best_model") not in _LOSS or values.get("greater_is_better"):
        raise ValueError(
            "The best model is the one with the lowest loss of the rows kept apart. Leave out --metric_for_best_model "
            "and --greater_is_better."
        )
    if not 0 < values["learning_rate"] < math.inf:
        raise ValueError(f"--learning_rate is {values['learning_rate']:g}: nothing would be learned. Give one above 0.")
    if values.get("warmup_steps") and values.get("lr_scheduler_type") == "constant":
        raise ValueError(
            f"--warmup_steps is {values['warmup_steps']:g} and --lr_scheduler_type constant, which has no warm-up. "
            "Leave it out, or choose --lr_scheduler_type constant_with_warmup."
        )
    if unused := sorted((_UNUSED if asked else _UNUSED | _OF_EVALUATIONS) & values.keys()):
        names = ", ".join(f"--{name}" for name in unused)
        logger.warning("Not used here: %s. See --evaluate and --eval_batch_size.", names)


def total_steps(training: TrainingArguments, rows: int) -> int:
    """Optimizer steps of the whole training, over so many rows.

    Raises:
        ValueError: there is no step, or the warm-up is longer.
    """
    if training.max_steps > 0:
        steps = int(training.max_steps)
    else:
        steps = math.ceil(steps_of_epoch(training, rows) * training.num_train_epochs)
    if steps < 1:
        raise ValueError(
            f"{rows} training rows give no step: --per_device_train_batch_size is "
            f"{training.per_device_train_batch_size} and --num_train_epochs {training.num_train_epochs:g}. Choose a "
            "smaller batch or more epochs, or leave out --dataloader_drop_last."
        )
    if training.warmup_steps > steps:
        raise ValueError(
            f"--warmup_steps is {training.warmup_steps:g}, and the run has {steps} steps: the rate would never be "
            "reached. Choose a shorter warm-up or a longer run."
        )
    return steps


def steps_of_epoch(training: TrainingArguments, rows: int) -> int:
    """Optimizer steps of one epoch over so many rows."""
    at_once = int(training.train_batch_size * training.world_size)
    batches = rows // at_once if training.dataloader_drop_last else math.ceil(rows / at_once)
    return math.ceil(batches / int(training.gradient_accumulation_steps))


def measure_epochs(trainer: RunTrainer, epochs: Sequence[int], measure: Callable[[], Mapping[str, float]]) -> None:
    """Measures after these epochs of the training that comes; results.json gets the figures as `by_epoch`.

    Raises:
        ValueError: the run ends before one of them, or no process has the whole model (ZeRO-3, FSDP).
    """
    if not epochs:
        return
    if trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled():
        raise ValueError(
            "--measure_epochs measures in one process, which has only a part of the model under ZeRO-3 or FSDP. Leave "
            "it out, or train with ZeRO-2 or without sharding."
        )
    rows = len(trainer.train_dataset)
    whole = total_steps(trainer.args, rows) / max(1, steps_of_epoch(trainer.args, rows))
    if max(epochs) > whole:
        raise ValueError(
            f"--measure_epochs has {max(epochs)}, and the run has {whole:.3g} epochs. Leave that one out, or train "
            "longer."
        )
    trainer.add_callback(MeasuredEpochs(epochs, measure, trainer.accelerator.wait_for_everyone))


def make_trainer(
    attached: Attached,
    training: TrainingArguments,
    examples: Sequence[Any],
    collator: Callable[[Sequence[Any]], Mapping[str, Any]],
    tokenizer: Any,
    log: StepLog,
    kept_apart: Sequence[Any] | None = None,
) -> RunTrainer:
    """transformers' Trainer; with checkpoints of our own where the adapter is ours.

    Args:
        kept_apart: examples that `--eval_strategy` evaluates on.
    """
    training.label_names = training.label_names or ["labels"]  # PEFT's wrapper hides the model's
    training.prediction_loss_only = True
    if training.gradient_checkpointing:
        ours = gradient_checkpointing_kwargs() if attached.adapter is not None else {"use_reentrant": False}
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):  # new, old name
            if hasattr(training, name):
                setattr(training, name, {**(getattr(training, name) or {}), **ours})
    given: dict[str, Any] = {
        "run": log.run,
        "model": attached.model,
        "args": training,
        "train_dataset": examples,
        "eval_dataset": kept_apart,
        "data_collator": collator,
        "processing_class": tokenizer,
        "callbacks": [log, *attached.callbacks],
    }
    if attached.adapter is not None:
        trainer = ResLoRATrainer(**given, adapter=attached.adapter)  # brings the model to its device
        attached.paths = paths_of(log.run, training, attached, examples, collator)
        return trainer
    if attached.method == "adalora":
        from .baselines import AdaLoRATrainer

        return AdaLoRATrainer(**given)
    return RunTrainer(**given)


def train(trainer: RunTrainer, attached: Attached, run: RunFolder, settings: dict[str, Any], resumed_at: int) -> bool:
    """Trains from the start or the checkpoint; one that is at the end already is only taken up.

    Args:
        settings: of run.json; gets `steps`, those of the run at its end, and what was evaluated while training.

    Returns:
        whether this process is the one that evaluates: none does after a training that was asked to stop.
    """
    is_main = bool(trainer.is_world_process_zero())
    total = total_steps(trainer.args, len(trainer.train_dataset))
    settings["steps"] = max(total, resumed_at)
    settings["steps_per_epoch"] = steps_of_epoch(trainer.args, len(trainer.train_dataset))
    checkpoint = trainer.args.resume_from_checkpoint

    def start() -> None:
        if is_main:
            run.start({**settings, "steps": total}, Path(checkpoint) if checkpoint else None)

    if is_main:
        logger.info("%s trainable parameters, %d training rows", f"{attached.trainable:,}", len(trainer.train_dataset))
        if attached.adapter is not None:
            logger.info("%s", attached.adapter.link_plan())
    stopped = False
    if resumed_at >= total:
        _take_up_end(trainer, str(checkpoint))
        start()
    else:
        if checkpoint is None:
            start()  # before trackers write
        else:
            trainer.add_callback(ResumedRun(start))
        agree = asked_anywhere(trainer.accelerator)
        with stop_requests(together=agree is not None) as asked:
            trainer.add_callback(StopWhenAsked(asked, agree))
            _train(trainer, checkpoint)
        stopped = trainer.state.global_step < total
        # what follows is measured in the weights' precision, without the autocast that training put on forward
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    settings.update(_evaluations(trainer))
    # the main process goes on alone; one that ended with its group's threads running could be aborted
    trainer.model_wrapped = trainer.model
    leave_process_group(trainer.accelerator)
    if stopped and is_main:
        step = trainer.state.global_step
        print(f"Stopped after step {step} of {total}. Go on with --resume_from_checkpoint latest.")
    return is_main and not stopped


def _take_up_end(trainer: RunTrainer, checkpoint: str) -> None:
    """Loads the last checkpoint of a run that is at its end, or its best one."""
    trainer._load_from_checkpoint(checkpoint)
    trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    if trainer.args.load_best_model_at_end:
        trainer._load_best_model()


def _evaluations(trainer: RunTrainer) -> dict[str, Any]:
    """What was measured while training: losses of the rows kept apart by step, and the step whose weights were taken;
    figures of the test rows by epoch. Nothing without any.
    """
    rows = [
        {"step": row["step"], "epoch": row.get("epoch"), "loss": row["eval_loss"]}
        for row in trainer.state.log_history
        if "eval_loss" in row
    ]
    best = {"best_step": trainer.state.best_global_step} if trainer.args.load_best_model_at_end else {}
    by_epoch = [{**row[MEASURED], "epoch": row["epoch"]} for row in trainer.state.log_history if MEASURED in row]
    return {**({"evaluations": rows, **best} if rows else {}), **({"by_epoch": by_epoch} if by_epoch else {})}


def _train(trainer: Trainer, checkpoint: str | None) -> None:
    """transformers' own; what it raises while it takes up a checkpoint is told in a sentence.

    Raises:
        ValueError: the checkpoint's files are not of this training.
    """
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        resumed = [one.done for one in trainer.callback_handler.callbacks if isinstance(one, ResumedRun)]
        if checkpoint is None or all(resumed) or checkpoint in str(error):
            raise
        why = f"Its files are not those of this training ({type(error).__name__}: {str(error)[:120]})."
        raise ValueError(refusal(Path(checkpoint), why)) from error
