"""The loop that both pretraining stages share: schedule, averaged weights, checkpoints, exact resume, time
budget.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..runs.atomic import replacing
from .optimizer import MuonAndAdamW


@dataclass(frozen=True)
class StageSettings:
    """How long and how fast one stage learns.  Raises `ValueError` for settings that cannot be meant."""

    learning_rate: float
    """Peak of the schedule."""
    batch_size: int
    """Drawings a step."""
    max_steps: int | None = None
    """End after so many steps; the schedule follows the steps, and a resumed run equals a straight one bit
    for bit.
    """
    budget_seconds: float | None = None
    """End after so many seconds of work (pauses do not count); the schedule follows the seconds."""
    warmup_steps: int = 100
    """The learning rate rises over these."""
    decay_from: float = 0.5
    """Share of the way after which the learning rate falls, by a cosine, to `final_rate` of its peak."""
    final_rate: float = 0.01
    """Last learning rate as a share of the peak."""
    ema_decay: float = 0.999
    """Averaged weights keep this share of themselves a step (less in the first steps)."""
    weight_decay: float = 0.01
    """Share of the learning rate by which kernels and matrices shrink a step."""
    save_every: int = 500
    """Steps between checkpoints."""
    workers: int = 2
    """The batch is shared among so many Python threads, each on one core: far faster than one pass on all
    cores.
    """
    log_every: int = 50
    """Steps between lines of progress."""

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.budget_seconds is None):
            raise ValueError(
                f"A stage ends after steps or after minutes: got max_steps={self.max_steps} and "
                f"budget_seconds={self.budget_seconds}. Set exactly one of the two."
            )
        for name in (
            "learning_rate",
            "batch_size",
            "max_steps",
            "budget_seconds",
            "save_every",
            "log_every",
            "workers",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0: got {value}. Set a positive value.")
        for name in ("decay_from", "final_rate", "ema_decay"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1: got {value}. Set a share, such as 0.5.")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the way that is done, 0 ... 1."""
        if self.max_steps is not None:
            return min(1.0, step / self.max_steps)
        assert self.budget_seconds is not None
        return min(1.0, seconds / self.budget_seconds)

    def rate(self, step: int, progress: float) -> float:
        """Learning rate: linear warm-up, constant, cosine fall."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = max(0.0, (progress - self.decay_from) / (1 - self.decay_from))
        share = self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * fall))
        return self.learning_rate * warm * share


class WorkClock:
    """Seconds of work: a step far longer than the others was a pause, and counts as a usual one."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._recent: deque[float] = deque(maxlen=25)

    def count(self, elapsed: float) -> None:
        """Add one step that took `elapsed` seconds on the wall."""
        usual = statistics.median(self._recent) if len(self._recent) >= 5 else elapsed
        self._recent.append(elapsed)
        self.seconds += min(elapsed, 4 * usual)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator of `device` whose seed comes from `generator`; `generator` itself where it is there already."""
    if generator.device.type == device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


Loss = Callable[[nn.ModuleDict, torch.Generator, float], Tensor]


class Stage:
    """One stage of pretraining: modules, their averaged copy, optimiser, random state, and where it stands.

    `modules` is trained by `run(loss)`, where `loss(modules, generator, progress)` returns a scalar for one
    worker's share of a batch and takes every random number from `generator`, which is the CPU's (`generator_on`);
    several threads call it at once.
    `averaged` holds the moving average of the weights, for sampling and for the result.

    Args:
        modules: moved to their device and memory format already.
        folder: made where it isn't there; `checkpoint.pt` in it is all that a later process needs to go on.
        resume: take up the checkpoint in `folder`, if there is one.

    Raises:
        FileExistsError: there is a checkpoint, and `resume` isn't set.
        ValueError: the checkpoint is another model's, or damaged.
    """

    def __init__(
        self,
        name: str,
        modules: nn.ModuleDict,
        settings: StageSettings,
        folder: Path,
        seed: int,
        resume: bool = False,
    ) -> None:
        self.name, self.modules, self.settings, self.folder = name, modules, settings, folder
        self.averaged = copy.deepcopy(modules).eval().requires_grad_(False)
        self.optimizer = MuonAndAdamW(modules, settings.weight_decay)
        self.trained = [parameter for parameter in modules.parameters() if parameter.requires_grad]
        self.seed = seed
        self.step = 0
        self.clock = WorkClock()
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            if not resume:
                raise FileExistsError(
                    f"{self.checkpoint} is the checkpoint of an earlier run. "
                    "Pass --resume to go on with it, or another --output_dir to start anew."
                )
            self._take_up_checkpoint()

    @property
    def checkpoint(self) -> Path:
        """The file that holds the last checkpoint."""
        return self.folder / "checkpoint.pt"

    @property
    def progress(self) -> float:
        """Share of the way that is done, 0 ... 1."""
        return self.settings.progress(self.step, self.clock.seconds)

    def save(self) -> None:
        """Write the checkpoint, in place of the last one."""
        state = {
            "step": self.step,
            "seconds": self.clock.seconds,
            "modules": self.modules.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _take_up_checkpoint(self) -> None:
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"The checkpoint {self.checkpoint} can't be read ({error}). Remove it to begin this stage anew."
            ) from error
        try:
            self.modules.load_state_dict(state["modules"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"The checkpoint {self.checkpoint} was written with other model settings or another version ({error}). "
                "Pass the settings that it was written with, or another --output_dir."
            ) from error
        self.step, self.clock = state["step"], WorkClock(state["seconds"])
        print(f"{self.name}: resumed at step {self.step}, {100 * self.progress:.1f} % done", flush=True)

    def run(
        self,
        loss: Loss,
        on_save: Callable[[Stage], None] | None = None,
        stop_after: int | None = None,
    ) -> None:
        """Train to the end, or for `stop_after` steps; `on_save` is called after each checkpoint.

        Raises `RuntimeError` when the loss is no longer a number.
        """
        last = None if stop_after is None else self.step + stop_after
        recent: list[Tensor] = []
        self.modules.train()
        with ThreadPoolExecutor(self.settings.workers, initializer=self._limit_threads) as pool:
            while self.progress < 1 and self.step != last:
                began = time.perf_counter()
                recent.append(self._one_step(loss, pool))
                self.clock.count(time.perf_counter() - began)
                if self.step % self.settings.log_every == 0:
                    self._log(recent)
                    recent = []
                if self.step % self.settings.save_every == 0:
                    self.save()
                    if on_save is not None:
                        on_save(self)
        self.save()

    def _limit_threads(self) -> None:
        """In a worker: one thread for its kernels, since the workers already fill the cores."""
        if self.settings.workers > 1:
            torch.set_num_threads(1)

    def _share(self, loss: Loss, share: int, progress: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss and gradients of one worker's share of the batch, its random numbers fixed by seed, step and
        share.
        """
        generator = torch.Generator().manual_seed((self.seed * 10_000_019 + self.step) * 64 + share)
        value = loss(self.modules, generator, progress)
        return value.detach(), torch.autograd.grad(value, self.trained)

    def _one_step(self, loss: Loss, pool: ThreadPoolExecutor) -> Tensor:
        progress = self.progress
        rate = self.settings.rate(self.step, progress)
        workers = self.settings.workers
        shares = list(pool.map(lambda share: self._share(loss, share, progress), range(workers)))
        for parameter, *gradients in zip(self.trained, *(gradients for _, gradients in shares), strict=True):
            parameter.grad = torch.stack(gradients).mean(0) if workers > 1 else gradients[0]
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step(rate, pool)
        self.step += 1
        keep = min(self.settings.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.modules.parameters()), 1 - keep)
        return torch.stack([value for value, _ in shares]).mean()

    def _log(self, recent: list[Tensor]) -> None:
        mean = torch.stack(recent).mean().item()
        if not math.isfinite(mean):
            raise RuntimeError(
                f"The loss of stage {self.name} is {mean} at step {self.step}. "
                "Resume from the last checkpoint with a lower learning rate."
            )
        rate = self.optimizer.learning_rate
        line = {"stage": self.name, "step": self.step, "loss": round(mean, 5), "lr": rate}
        line |= {"seconds": round(self.clock.seconds, 1), "progress": round(self.progress, 4)}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        speed = self.step * self.settings.batch_size / max(self.clock.seconds, 1e-9)
        print(
            f"{self.name} step {self.step}  loss {mean:.4f}  lr {rate:.1e}  {speed:.1f} drawings/s  "
            f"{100 * self.progress:.1f} % done",
            flush=True,
        )
