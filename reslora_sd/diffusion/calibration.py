"""Batches of the data that a finished or running training used, for statistics outside of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import settings_of
from .batches import Batch, BatchMaker
from .conditioning import chunks_of
from .data import load_split
from .emphasis import emphasis_of
from .encoded import EncodedImages
from .framing import framing_of
from .models import Parts
from .settings import DataSettings, UnetSettings
from .wording import WORDING_FLAGS, wording_of

_NEWER = (
    *("dataset_config", "buckets", "bucket_step", "bucket_min", "bucket_max", "bucket_upscale"),
    *("trigger_word", "max_token_length", *WORDING_FLAGS),
    *("with_prior_preservation", "class_data_dir", "class_prompt", "num_class_images", "prior_loss_weight"),
    *("masked_loss", "mask_data_dir", "unmasked_weight"),
)
"""What runs of earlier versions don't say, and didn't have."""
_NEEDED = (
    *(field.name for field in dataclasses.fields(DataSettings) if field.name not in _NEWER),
    *("seed", "train_batch_size", "noise_offset", "gradient_accumulation_steps", "validation_samples"),
    "calibration_samples",
)


def calibration_settings(arguments: Mapping[str, Any]) -> UnetSettings:
    """The settings of run.json, if it says all that decides which batches a run sees.

    Raises:
        ValueError: something is missing, or is invalid.
    """
    missing = [name for name in _NEEDED if name not in arguments]
    if missing:
        raise ValueError(f"run.json doesn't say {', '.join(missing)}, which this merge needs. Choose another approach.")
    return settings_of(arguments)


def calibration_batches(
    settings: UnetSettings, parts: Parts, start: int, count: int, with_copies: bool = False
) -> Iterator[Batch]:
    """Batches `start` to `start + count - 1` of a run, as its script would draw them in one process.

    Args:
        settings: from `calibration_settings`.
        start: the first batch that the training hasn't used, so that noise and timesteps are new.
        with_copies: as `load_split`.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_images`.
    """
    resolution, seed = settings.data.resolution or parts.resolution, settings.training.seed
    parts.chunks = chunks_of(parts, settings.data.max_token_length)
    images = load_split(settings, resolution, with_copies=with_copies).training
    maker = BatchMaker(
        EncodedImages(
            parts,
            images,
            framing_of(settings.data, resolution, images, parts),
            cache=False,
            quiet=True,
            check=False,
            wording=wording_of(settings.data),
            emphasis=emphasis_of(settings.data),
        ),
        settings.training.train_batch_size,
        seed,
        parts.scheduler.config.num_train_timesteps,
        noise_offset=settings.training.noise_offset,
    )
    return maker.between(start, start + count)


@torch.no_grad()
def predict(unet: nn.Module, parts: Parts, batch: Batch) -> Tensor:
    """The U-Net's prediction on a batch's noisy latents."""
    weight = next(unet.parameters())
    batch = batch.to(weight.device, weight.dtype)
    noisy = parts.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    sample: Tensor = unet(noisy, batch.timesteps, **batch.conditioning.arguments()).sample
    return sample
