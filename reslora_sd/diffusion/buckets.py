"""Aspect-ratio buckets: which width and height a picture is trained at. No torch.

The rule is that of kohya-ss/sd-scripts (library/train_util.py, `BucketManager`): sides in steps, an area near that of
the square, and no picture enlarged. Unlike there, a picture below the smallest side is enlarged to it, not refused.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from .settings import DataSettings

Size = tuple[int, int]
"""Width, height."""
_STEP, _STEPS_OF_A_SIDE = 64, 8


@dataclass(frozen=True)
class Buckets:
    """The widths and heights that pictures are trained at.

    Raises:
        ValueError: they contradict each other.
    """

    resolution: int
    """No bucket has more pixels than a square of this side."""
    step: int
    """Sides are multiples of it."""
    low: int
    """Of a side."""
    high: int
    """Of a side."""
    upscale: bool = False
    """Whether small pictures are enlarged to the full area."""

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if not self.step <= low <= self.resolution <= high:
            raise ValueError(
                f"Buckets have sides from {low} to {high} in steps of {self.step}, which doesn't fit --resolution "
                f"{self.resolution}: --bucket_step <= --bucket_min <= --resolution <= --bucket_max."
            )
        if low % self.step or high % self.step:
            raise ValueError(
                f"--bucket_min is {low} and --bucket_max {high}. Both must be multiples of --bucket_step {self.step}."
            )
        if not self._largest:
            raise ValueError(
                f"No bucket with sides of {low} or more has the area of --resolution {self.resolution}. "
                "Make --bucket_min smaller."
            )

    def of(self, size: Size) -> Size:
        """The bucket of a picture, by its upright width and height: of those that it covers, the one most like it."""
        width, height = size
        if self.is_too_small(size):
            larger = self.low / min(size)
            width, height = max(self.low, round(width * larger)), max(self.low, round(height * larger))
        covered = [box for box in self._largest if self.upscale or (box[0] <= width and box[1] <= height)]
        if not covered:  # it has less than the full area
            return self._down(width), self._down(height)
        shape = math.log(width / height)
        return min(covered, key=lambda box: (abs(math.log(box[0] / box[1]) - shape), -box[0] * box[1]))

    def is_too_small(self, size: Size) -> bool:
        """Whether a picture is enlarged all the same, since a side is below the smallest."""
        return min(size) < self.low

    def _down(self, side: int) -> int:
        return min(self.high, side // self.step * self.step)

    @functools.cached_property
    def _largest(self) -> list[Size]:
        """For each width, the bucket of the greatest height."""
        found = []
        for width in range(self.low, self.high + 1, self.step):
            height = self._down(self.resolution**2 // width)
            if height >= self.low:
                found.append((width, height))
        return found


def buckets_of(data: DataSettings, resolution: int, multiple: int, preferred: int) -> Buckets:
    """The buckets that the settings ask for.

    Args:
        multiple: what sides must be multiples of: the VAE's pixels for one latent.
        preferred: what they had better be multiples of, so that the U-Net can halve them as often as it does.

    Raises:
        ValueError: they don't fit the model or the resolution.
    """
    step = data.bucket_step
    if step is None:
        step = max(preferred, min(_STEP, resolution // _STEPS_OF_A_SIDE) // preferred * preferred)
        step = step if 2 * step <= resolution else multiple
    if step % multiple:
        below, above = step // multiple * multiple, -(-step // multiple) * multiple
        raise ValueError(
            f"--bucket_step is {step}. It must be a multiple of {multiple} for this model: take "
            f"{f'{below} or {above}' if below else above}."
        )
    low = data.bucket_min or max(step, resolution // 2 // step * step)
    high = data.bucket_max or -(-2 * resolution // step) * step
    return Buckets(resolution, step, low, high, data.bucket_upscale)
