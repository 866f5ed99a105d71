"""transformers' Trainer for run folders: complete checkpoints that hold what trains, a log line each step, stopping."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

from ..adapter.adapter import ResLoRAAdapter
from ..adapter.training_form import load_adapter_state
from ..files.storage import load_tensors, save_tensors
from ..runs.checkpoints import SAVING
from ..runs.folder import RunFolder
from ..runs.names import ADAPTER_FILE, HEAD_FILE, checkpoint_name
from ..runs.stopping import Agree
from ..training.checks import check_learning, check_loss, peak_memory_mb
from ..training.resuming import own_rates


class RunTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose checkpoints are complete or not there.

    transformers writes them in place: one that a kill cut off looks like one, and an older one may be gone by then.

    Args:
        run: where they go.
    """

    def __init__(self, *args: Any, run: RunFolder, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run = run
        self.args.logging_nan_inf_filter = False  # it logs NaN as the mean of the losses before

    @property
    def best(self) -> Path | None:
        """The checkpoint with the lowest loss of the rows kept apart, where the run evaluates while training."""
        step = self.state.best_global_step
        return self.run.path / checkpoint_name(step) if step else None

    def _load_best_model(self) -> None:
        best = self.best
        if best is None or not best.is_dir():
            raise FileNotFoundError(
                f"{best} was the best checkpoint, and isn't there, so --load_best_model_at_end can't take it up. Leave "
                "that flag out to go on from the last one."
            )
        self.state.best_model_checkpoint = str(best)
        self._take_best(best)

    def _take_best(self, checkpoint: Path) -> None:
        super()._load_best_model()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """transformers' own; a loss that is no number stops the run before it reaches the weights or a checkpoint."""
        loss: Tensor = super().training_step(*args, **kwargs)
        check_loss(float(loss), self.state.global_step + 1, self.run.path, "a broken row")
        return loss

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not isinstance(self.lr_scheduler, LambdaLR):  # schedules of the loss know no flags
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        with own_rates(self.optimizer, self.lr_scheduler):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.path / SAVING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.is_world_process_zero():
            shutil.rmtree(self.run.path / SAVING, ignore_errors=True)  # of a run that was killed while saving
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            step = self.state.global_step
            written = self.run.path / SAVING / checkpoint_name(step)
            keep, best = self.args.save_total_limit, self.best if self.args.load_best_model_at_end else None
            self.run.add_checkpoint(written, step, keep, best, processes=self.args.world_size)
            (self.run.path / SAVING).rmdir()
        self.state.best_model_checkpoint = str(self.best) if self.best else None  # it is published by now
        self.accelerator.wait_for_everyone()


class ResLoRATrainer(RunTrainer):
    """A Trainer whose checkpoints hold the adapter's training form and a new head, not the frozen model.

    Everything else is transformers' own: accumulation, mixed precision, DeepSpeed, FSDP, resume, trackers.

    Args:
        adapter: the adapter inside `model`.
    """

    def __init__(self, *args: Any, adapter: ResLoRAAdapter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapter = adapter

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        save_trained(self.adapter, folder, state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.adapter, Path(resume_from_checkpoint))

    def _take_best(self, checkpoint: Path) -> None:
        load_trained(self.adapter, checkpoint)


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters that are no block's, by their path."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".block.lora_" not in name
    }


def save_trained(adapter: ResLoRAAdapter, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes the training form and the head; `state` is the whole model's, where it was gathered (FSDP, ZeRO-3)."""
    folder.mkdir(parents=True, exist_ok=True)
    head = head_parameters(adapter.model)
    blocks, rest = None, {name: parameter.detach().cpu() for name, parameter in head.items()}
    if state is not None:
        stored = (*dict(adapter.named_parameters()), *dict(adapter.named_maps()))
        blocks = {name: state[_name_in_model(name)].cpu() for name in stored}
        rest = {name: state[name].cpu() for name in head}
    adapter.save(folder / ADAPTER_FILE, blocks)
    if rest:
        save_tensors(folder / HEAD_FILE, rest, {})


def load_trained(adapter: ResLoRAAdapter, folder: Path) -> None:
    """Takes up what `save_trained` wrote.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or of other settings.
    """
    adapter.load_state_dict(load_adapter_state(folder / ADAPTER_FILE, adapter.config), str(folder))
    head = head_parameters(adapter.model)
    if not head:
        return
    stored, _ = load_tensors(folder / HEAD_FILE)
    have, need = ({name: tuple(one.shape) for name, one in table.items()} for table in (stored, head))
    if have != need:
        raise ValueError(f"{folder / HEAD_FILE} holds {have}, but {need} train. Resume the same task.")
    with torch.no_grad():
        for name, parameter in head.items():
            parameter.copy_(stored[name])


def _name_in_model(name: str) -> str:
    """`...q_proj.lora_A` of the adapter is `...q_proj.block.lora_A` of the model."""
    path, letter = name.rsplit(".", 1)
    return f"{path}.block.{letter}"


class StepLog(TrainerCallback):  # type: ignore[misc]
    """A line of log.jsonl for every step: loss, learning rate, gradient norm, seconds, peak memory.

    Stops a training in which nothing learns.
    """

    def __init__(self, run: RunFolder, adapter: ResLoRAAdapter | None, must_learn_by: int = 5) -> None:
        self.run, self.adapter, self.must_learn_by = run, adapter, must_learn_by
        self._began = 0.0
        self._of_step = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._of_step = time.perf_counter() - self._began
        if self.adapter is not None and state.global_step == self.must_learn_by:
            check_learning(self.adapter, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = logs["loss"]
        if state.is_world_process_zero:
            norm = logs.get("grad_norm")
            self.run.log(
                step=state.global_step,
                loss=loss,
                lr=logs.get("learning_rate"),
                grad_norm=float(norm) if norm is not None and math.isfinite(norm) else None,
                seconds=round(self._of_step, 4),
                memory=peak_memory_mb(),
            )


class ResumedRun(TrainerCallback):  # type: ignore[misc]
    """Calls a function when all of a checkpoint has been loaded, and before the first step."""

    def __init__(self, resume: Callable[[], None]) -> None:
        self.resume = resume
        self.done = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.done = True
        self.resume()


class StopWhenAsked(TrainerCallback):  # type: ignore[misc]
    """Ends training, with a checkpoint, after the step in which an event was set, in any process."""

    def __init__(self, asked: threading.Event, agree: Agree | None = None) -> None:
        self.asked, self.agree = asked, agree

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = self.asked.is_set()
        if self.agree(asked) if self.agree else asked:
            control.should_save = control.should_training_stop = True


MEASURED = "measured"
"""The entry of the Trainer's history that holds what `MeasuredEpochs` found: it is in every checkpoint."""


class MeasuredEpochs(TrainerCallback):  # type: ignore[misc]
    """Measures after the last step of some epochs, before the checkpoint of that step is written.

    Args:
        epochs: counted from 1.
        measure: figures by name; must draw nothing, or the training would go on otherwise. Only the main process calls.
        wait: what the other processes wait in.
    """

    def __init__(
        self, epochs: Sequence[int], measure: Callable[[], Mapping[str, float]], wait: Callable[[], object]
    ) -> None:
        self.epochs, self.measure, self.wait = frozenset(epochs), measure, wait

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = round(state.epoch or 0.0)
        if epoch not in self.epochs or abs(state.epoch - epoch) > 1e-6:
            return
        if state.is_world_process_zero:
            state.log_history.append({"step": state.global_step, "epoch": epoch, MEASURED: dict(self.measure())})
        self.wait()
