"""The embedded U-Net and an embedded style: 60 drawings to train on, 60 others to measure on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ..adapter.adapter import ResLoRAAdapter, add_reslora
from ..diffusion.arguments import parse_settings
from ..diffusion.batches import Batch, BatchMaker, batches_kept_out, training_batches
from ..diffusion.calibration import predict
from ..diffusion.data import load_split
from ..diffusion.framing import framing_of
from ..diffusion.frozen_paths import first_batches
from ..diffusion.loss import diffusion_loss
from ..diffusion.models import load_parts
from ..diffusion.validation import validation_loss
from ..training.method import OurMethod
from .problem import Kind

_MEASURED = 256
"""Noisy pictures that the paths are measured on."""


class Pictures:
    """See `Problem`. Flags that aren't named here have the training script's defaults for the embedded model."""

    name = "pictures"

    def __init__(self, style: str, rank: int = 16) -> None:
        self.settings = parse_settings(["--dataset_name", style, "--rank", str(rank), "--lora_alpha", str(2 * rank)])
        self.asked: dict[str, Any] = {"style": style, "rank": rank}
        self.max_grad_norm = self.settings.optimizer.max_grad_norm
        self.parts = load_parts(self.settings.model.pretrained_model_name_or_path)
        self.model = self.parts.unet
        self.resolution = self.settings.data.resolution or self.parts.resolution
        self.split = load_split(self.settings, self.resolution)
        framing = framing_of(self.settings.data, self.resolution, self.split.training, self.parts)
        held = batches_kept_out(self.settings.training, self.parts, self.split, framing).validation
        assert held is not None
        self.held: BatchMaker = held
        self.batches: dict[int, BatchMaker] = {}

    def _batches(self, seed: int) -> BatchMaker:
        if seed not in self.batches:
            settings = replace(self.settings, training=replace(self.settings.training, seed=seed))
            framing = framing_of(settings.data, self.resolution, self.split.training, self.parts)
            self.batches[seed] = training_batches(settings, self.parts, self.split.training, framing, quiet=True)
        return self.batches[seed]

    def adapt(self, kind: Kind, seed: int) -> ResLoRAAdapter:
        torch.manual_seed(seed)
        method = replace(
            self.settings.method,
            method=cast(OurMethod, kind.method),
            first_block=cast(Any, kind.first_block),
            merge_approach=None,
        )
        return add_reslora(self.model, method.adapter())

    def measured(self, seed: int) -> Iterator[Batch]:
        return first_batches(self._batches(seed), _MEASURED)

    def forward(self, batch: Any) -> object:
        return predict(self.model, self.parts, batch)

    def token_mask(self, batch: Any) -> Tensor | None:
        return None

    def loss(self, seed: int, step: int) -> Tensor:
        batch = self._batches(seed)(step)
        return diffusion_loss(
            self.model, self.parts.scheduler, batch.latents, batch.conditioning, batch.noise, batch.timesteps
        )

    def held_out(self) -> float:
        rounds = max(1, len(self.held.encoded.images) // self.held.batch_size)
        return validation_loss(self.model, self.parts.scheduler, map(self.held, range(rounds)))
