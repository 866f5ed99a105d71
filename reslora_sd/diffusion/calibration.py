"""Batches of the data that a finished or running training used, for statistics outside of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch, BatchMaker
from .data import Framing, load_images
from .encode import Encoder
from .models import Parts


def calibration_batches(arguments: Mapping[str, Any], parts: Parts, start: int, count: int) -> Iterator[Batch]:
    """Batches `start` to `start + count - 1` of a run, as its script would draw them in one process.

    Args:
        arguments: those of run.json.
        start: the first batch that the training hasn't used, so that noise and timesteps are new.

    Raises:
        KeyError: an argument is missing.
        ValueError, FileNotFoundError, ImportError: as `load_images`.
    """
    resolution = arguments["resolution"] or parts.resolution
    images = load_images(
        arguments["train_data_dir"],
        arguments["dataset_name"],
        arguments["dataset_config_name"],
        arguments["image_column"],
        arguments["caption_column"],
        arguments["max_train_samples"],
        resolution,
        arguments["seed"],
        arguments["cache_dir"],
    )
    if arguments["validation_samples"]:
        images, _ = images.split(arguments["validation_samples"], arguments["seed"])
    framing = Framing(
        resolution, arguments["center_crop"], arguments["random_flip"], arguments["image_interpolation_mode"]
    )
    maker = BatchMaker(
        Encoder(parts, images, framing, cache=False, quiet=True),
        arguments["train_batch_size"],
        arguments["seed"],
        parts.scheduler.config.num_train_timesteps,
        noise_offset=arguments["noise_offset"],
    )
    return maker.between(start, start + count)


@torch.no_grad()
def predict(unet: nn.Module, parts: Parts, batch: Batch) -> Tensor:
    """The U-Net's prediction on a batch's noisy latents."""
    weight = next(unet.parameters())
    batch = batch.to(weight.device, weight.dtype)
    noisy = parts.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    sample: Tensor = unet(noisy, batch.timesteps, encoder_hidden_states=batch.embeddings).sample
    return sample
