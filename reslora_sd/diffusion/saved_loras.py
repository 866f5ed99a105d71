"""`--save_lora_steps` and `--save_lora_epochs`: merged LoRAs on the way, in the forms of the one at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..runs.folder import RunFolder
from ..runs.names import alpha_from_of, looks_at_data
from .adapters import Adapters
from .batches import BatchMaker
from .calibration import predict
from .export import Exporter
from .models import Parts
from .other_texts import other_texts
from .precision import own_forward
from .settings import UnetSettings

_SHARE, _LEAST, _MOST = 16, 16, 64
"""Noisy pictures for the statistics of one merge: a 16th of those trained since the last, within bounds. A training
step costs three passes on a picture and the statistics one and a half, so that this is a thirtieth of the training."""


@dataclass(frozen=True)
class LoRASaver:
    """Merges the adapters as they are after a step. Training goes on as if nothing had happened."""

    every: int
    """Optimizer steps; 0 for never."""
    adapters: Adapters
    parts: Parts
    batches: BatchMaker
    exporter: Exporter
    run: RunFolder
    settings: UnetSettings

    def after_step(self, step: int, tell: Callable[[str], None]) -> None:
        """Writes `loras/step-.../` where it is due: the same approach as at the end, on fewer pictures.

        Statistics come from the batches that follow, with noise of all timesteps: a function of the step alone, as
        everything that a run draws, so that a resumed run saves what an uninterrupted one does.
        """
        if not self.every or step % self.every:
            return
        started = time.perf_counter()
        method, unet = self.settings.method, self.parts.unet
        statistics, data = None, ""
        if looks_at_data(method.approach, method.alpha_from):
            first, count = step * self.settings.training.gradient_accumulation_steps, self._batches()
            data = f" on {count * self.batches.batch_size} noisy pictures"
            with own_forward(unet):
                statistics = self.adapters.statistics(
                    self.batches.between(first, first + count),
                    lambda batch: predict(unet, self.parts, batch),
                    other_texts(self.parts, self.settings.validation.validation_prompts or ()),
                )
        alpha_from = alpha_from_of(method.approach, method.alpha_from)
        plain = self.adapters.merge(method.approach, statistics, rank=method.merge_rank, alpha_from=alpha_from)
        folder, kohya_file = self.run.make_lora_folder(step)
        self.exporter(plain, folder, step, kohya_file)
        seconds = time.perf_counter() - started
        tell(f"Step {step}: {folder}, merged by {method.approach}{data} in {seconds:.1f} s.")

    def _batches(self) -> int:
        training = self.settings.training
        pictures = self.every * training.gradient_accumulation_steps * training.train_batch_size // _SHARE
        asked = self.settings.method.calibration_samples or _MOST
        return max(1, min(asked, max(_LEAST, pictures), _MOST) // self.batches.batch_size)


def save_every(settings: UnetSettings, steps_of_epoch: int) -> int:
    """Every how many steps a LoRA is saved; 0 for never."""
    output = settings.output
    return output.save_lora_steps or (output.save_lora_epochs or 0) * steps_of_epoch
