"""What somebody asks to be drawn, checked; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from reslora_sd.diffusion.defaults import EMBEDDED_DEFAULTS
from reslora_sd.diffusion.settings import TrainingSettings
from reslora_sd.runs.names import APPROACHES, UNMERGED, default_approach

BEST = "best merge"
"""`exact` for lora and reslora_bs, `least_squares` for the others."""
_MERGES = dict.fromkeys(approach for residual in APPROACHES.values() for approach in reversed(residual))
ADAPTER_CHOICES = (UNMERGED, BEST, *_MERGES)
"""How an adapter can be used for a picture."""
_LONGEST = 1000


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The one who asked doesn't want the picture any more."""


@dataclass(frozen=True)
class DrawRequest:
    """One prompt and how to draw it.

    Raises:
        ValueError: a value is out of range.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = TrainingSettings.seed
    steps: int = EMBEDDED_DEFAULTS["validation_inference_steps"]
    """Of the sampler, 1 to 150."""
    guidance: float = EMBEDDED_DEFAULTS["validation_guidance_scale"]
    """1 to 30."""
    approach: str = BEST
    """One of `ADAPTER_CHOICES`."""
    strength: float = 1.0
    """Factor on the adapter, 0 to 2; 0 is the base model."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("The prompt is empty. Type what to draw.")
        if max(len(self.prompt), len(self.negative_prompt)) > _LONGEST:
            raise ValueError(f"The prompt has {len(self.prompt)} letters. It may have {_LONGEST}.")
        if self.approach not in ADAPTER_CHOICES:
            raise ValueError(f"The merge is {self.approach!r}. It must be one of {', '.join(ADAPTER_CHOICES)}.")
        for name, value, low, high in (
            ("seed", self.seed, 0, 2**63 - 1),
            ("number of steps", self.steps, 1, 150),
            ("guidance", self.guidance, 1, 30),
            ("strength", self.strength, 0, 2),
        ):
            if not low <= value <= high:
                raise ValueError(f"The {name} is {value}. It must be from {low} to {high}.")


def fitting_approach(asked: str, residual: str) -> str:
    """The approach that was asked for, or the residual's best one where it has no such approach."""
    return asked if asked in APPROACHES[residual] else default_approach(residual)
