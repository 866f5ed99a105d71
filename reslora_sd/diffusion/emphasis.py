"""How much each picture, and each part of it, counts in the loss: `--prior_loss_weight` and `--masked_loss`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .settings import DataSettings


@dataclass(frozen=True)
class Emphasis:
    """What the flags say of it."""

    masked: bool = False
    unmasked_weight: float = 0.0
    prior_weight: float = 1.0

    def weights(self, priors: Sequence[bool], masks: Sequence[Tensor | None]) -> Tensor | None:
        """What the squared errors of a batch are multiplied by; `None` where all count alike.

        Args:
            priors: whether each picture is one of the class.
            masks: of each picture (1, height, width) in latents, from 0 to 1; `None` where all of it counts.

        Returns:
            (batch, 1, height, width), or (batch, 1, 1, 1) without masks.
        """
        if self.prior_weight == 1 and not self.masked:
            return None
        counts = torch.tensor([self.prior_weight if prior else 1.0 for prior in priors])[:, None, None, None]
        if not self.masked or all(mask is None for mask in masks):
            return counts
        shape = next(mask.shape for mask in masks if mask is not None)
        parts = [torch.ones(shape) if mask is None else self._of_mean_one(mask) for mask in masks]
        return counts * torch.stack(parts)

    def _of_mean_one(self, mask: Tensor) -> Tensor:
        """The weights of a mask, scaled to a mean of 1, so that a small mask doesn't make its picture count less.

        A crop that nothing of the mask is in has no mean, and doesn't count.
        """
        weights = self.unmasked_weight + (1 - self.unmasked_weight) * mask
        mean = weights.mean()
        return weights / mean if mean > 0 else weights


def emphasis_of(data: DataSettings) -> Emphasis:
    """What the flags say."""
    return Emphasis(data.masked_loss, data.unmasked_weight, data.prior_loss_weight)
