"""How much is calibrated, measured and drawn after training: bounded by the training's own cost. No torch.

Counts follow from settings and steps alone, never from a clock, so that a resumed run ends as an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runs.names import APPROACHES, looks_at_data
from .settings import UnetSettings

FULL_CALIBRATION, FULL_MEASURED = 512, 128
"""Noisy pictures with `--report`."""
_LEAST_CALIBRATION, _LEAST_MEASURED = 64, 8


@dataclass(frozen=True)
class Effort:
    """What `finish` does beside merging and exporting."""

    calibration: int
    """Noisy pictures for the statistics, of merges that need any."""
    measured: int
    """Noisy pictures that base, unmerged and merged models are compared on."""
    other_merges: bool = True
    """Measure the merges that aren't exported, too. Plain LoRA has none: all are the same."""
    draw: bool = True
    """Draw the validation pictures with the exported file."""
    draw_others: bool = False
    """Draw them with the other merges; and let exact merges have statistics, for the error of each branch."""
    alpha_from: str = "weights"
    """As `merge` takes it: where Eq. 13's factors come from."""
    prompts: tuple[str, ...] = field(default=(), compare=False)
    """Of the run's validation pictures: trained text encoders are measured on them, too."""

    def merges(self, residual: str, approach: str) -> tuple[str, ...]:
        """The merges that are made and measured, the exported one among them."""
        return APPROACHES[residual] if self.other_merges and residual != "none" else (approach,)

    def takes_statistics(self, residual: str, approach: str) -> bool:
        """Whether data pass through the model before these merges."""
        looks = any(looks_at_data(name, self.alpha_from) for name in self.merges(residual, approach))
        return looks or (self.draw_others and residual != "none")


def effort_of(settings: UnetSettings, drawn: int) -> Effort:
    """The effort of a run: what its flags ask for, and else what is in proportion.

    A training step costs about three forward passes on its pictures. Left to itself, calibration takes a sixteenth of
    the pictures that training took, each for about one and a half passes, and each of at most seven models is measured
    on a hundredth. From 1,000 steps on that is below a tenth of the training, with the pictures that are drawn.

    Args:
        drawn: how many batches the training used.
    """
    asked, report, batch_size = (
        settings.method.calibration_samples,
        settings.output.report,
        settings.training.train_batch_size,
    )
    pictures, alpha_from = drawn * batch_size, settings.method.alpha_from
    prompts = tuple(settings.validation.validation_prompts or ())
    if report:
        calibration = asked or FULL_CALIBRATION
        return Effort(
            calibration, min(FULL_MEASURED, calibration), draw_others=True, alpha_from=alpha_from, prompts=prompts
        )
    calibration = asked or min(max(pictures // 16, _LEAST_CALIBRATION), FULL_CALIBRATION)
    if report is False:
        return Effort(calibration, batch_size, other_merges=False, draw=False, alpha_from=alpha_from, prompts=prompts)
    measured = min(max(pictures // 100, _LEAST_MEASURED), FULL_MEASURED)
    return Effort(calibration, min(measured, calibration), alpha_from=alpha_from, prompts=prompts)
