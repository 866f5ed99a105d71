"""How long the rest of a run takes, told once the first steps were timed. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from ..runs.names import METHODS
from .effort import Effort, effort_of
from .settings import UnetSettings

if TYPE_CHECKING:
    from .validation import Validation

_TIMED_STEPS = 5
"""Steps that are timed; the first isn't counted, as it also warms up."""
_PASSES_OF_A_STEP = 3
"""A training step on a picture, in forward passes."""
_STATISTICS_PASSES = 1.5
"""A picture for the statistics, in forward passes."""


@dataclass
class Forecast:
    """Counts what is left of a run, and times what each part of it costs."""

    settings: UnetSettings
    effort: Effort
    total: int
    loading_seconds: float
    """Of the model, which is loaded again for the proof."""
    draw_every: int = 0
    """0: no pictures."""
    pictures: int = 0
    """Drawn each time."""
    drawing_seconds: float | None = None
    """Of one time; `None` as long as nothing was drawn."""
    step_seconds: list[float] = field(default_factory=list)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Times the drawing inside of it."""
        started = time.perf_counter()
        yield
        self.drawing_seconds = time.perf_counter() - started

    def after_step(self, step: int, seconds: float, tell: Callable[[str], None]) -> None:
        """Counts a step's time, and tells the forecast once enough are known.

        Args:
            step: how many are done.
            tell: called once in a run, with a line.
        """
        if len(self.step_seconds) < _TIMED_STEPS:
            self.step_seconds.append(seconds)
            if len(self.step_seconds) == _TIMED_STEPS and step < self.total:
                loop, rest = self.seconds_left(step)
                tell(
                    f"About {in_words(loop + rest)} to go: {in_words(loop)} to train and draw, "
                    f"{in_words(rest)} to merge, measure and prove."
                )

    def seconds_left(self, step: int) -> tuple[float, float]:
        """Seconds of the loop from this step on, and of all that follows it."""
        one_step = median(self.step_seconds[1:])
        training = self.settings.training
        one_pass = one_step / (_PASSES_OF_A_STEP * training.train_batch_size * training.gradient_accumulation_steps)
        drawing = self.drawing_seconds
        if drawing is None:
            drawing = self.pictures * 2 * self.settings.validation.validation_inference_steps * one_pass
        loop = one_step * (self.total - step) + drawing * self._drawings_after(step)
        residual, approach = METHODS[self.settings.method.method], self.settings.method.approach
        merges = len(self.effort.merges(residual, approach))
        passes: float = self.effort.measured * (3 + merges)  # base, unmerged and the exported file, too
        if self.effort.takes_statistics(residual, approach):
            passes += _STATISTICS_PASSES * self.effort.calibration
        drawings = self.effort.draw + (merges - 1) * self.effort.draw_others
        return loop, passes * one_pass + drawings * drawing + self.loading_seconds

    def _drawings_after(self, step: int) -> int:
        if not self.draw_every:
            return 0
        return self.total // self.draw_every - step // self.draw_every + bool(self.total % self.draw_every)


def forecast_of(
    settings: UnetSettings, total: int, loading_seconds: float, validation: Validation | None, every: int
) -> Forecast:
    """What the rest of the run will take, once its steps are timed."""
    effort = effort_of(settings, total * settings.training.gradient_accumulation_steps)
    if validation is None:
        return Forecast(settings, replace(effort, draw=False, draw_others=False), total, loading_seconds)
    pictures = len(validation.prompts) * len(validation.seeds)
    return Forecast(settings, effort, total, loading_seconds, every, pictures)


def in_words(seconds: float) -> str:
    """A time for people, rounded to what a forecast can know: "40 s", "3 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
