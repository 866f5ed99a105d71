"""Which pictures, noise and timesteps each training step sees: a function of the seed and the step alone.

Nothing depends on earlier steps, so that a resumed run continues exactly, methods compare on the same draws, and
several processes together see what one process with the joined batch would.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .conditioning import Conditioning, LateConditioning
from .data import CaptionedImages, Split
from .defaults import DEFAULT_EPOCHS
from .encoded import EncodedImages
from .framing import Framing
from .loss import add_noise_offset
from .models import Parts
from .order import BucketOrder, mix
from .settings import TrainingSettings, UnetSettings
from .wording import wording_of

logger = logging.getLogger(__name__)
MOST_CACHED = 4 * 2**30
"""Bytes of latents that a process keeps unasked: some 32,000 pictures of 512 pixels."""


@dataclass(frozen=True)
class Batch:
    """The inputs of `diffusion_loss` for one process."""

    latents: Tensor
    conditioning: Conditioning | LateConditioning
    noise: Tensor
    timesteps: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Moves all, and casts all but the timesteps and time ids."""
        latents, noise = self.latents.to(device, dtype), self.noise.to(device, dtype)
        return Batch(latents, self.conditioning.to(device, dtype), noise, self.timesteps.to(device))


class BatchMaker:
    """Makes the batch of a step: pictures of one bucket, in the order of `BucketOrder`.

    Args:
        batch_size: of one process.
        timesteps: of the scheduler's schedule.
        trained: the timesteps that training draws from; left out: all.
        processes: how many processes take part; together they see `batch_size * processes` pictures a step.
    """

    def __init__(
        self,
        encoded: EncodedImages,
        batch_size: int,
        seed: int,
        timesteps: int,
        processes: int = 1,
        rank: int = 0,
        noise_offset: float = 0.0,
        trained: range | None = None,
    ) -> None:
        self.encoded, self.batch_size, self.seed = encoded, batch_size, seed
        self.timesteps, self.processes, self.rank = timesteps, processes, rank
        self.noise_offset, self.trained = noise_offset, trained or range(timesteps)
        repeats = encoded.images.repeats
        buckets = [[row for row in rows for _ in range(repeats[row])] for rows in encoded.buckets()]
        self.order = BucketOrder(buckets, batch_size * processes, seed)

    def __call__(self, step: int) -> Batch:
        """The batch that a (micro) step trains on, counted from 0, on the CPU in float32."""
        return self._make(step, self.trained)

    def between(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps `start` to `stop - 1` to measure on: of all timesteps, as sampling meets all."""
        return (self._make(step, range(self.timesteps)) for step in range(start, stop))

    def every_picture(self, least: int = 0) -> Iterator[Batch]:
        """As `between`: each picture once or more, and `least` pictures or more in all."""
        return self.between(0, max(math.ceil(least / self.batch_size), self.order.batches(1)))

    def _make(self, step: int, timesteps_from: range) -> Batch:
        whole = self.batch_size * self.processes
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        generator = torch.Generator().manual_seed(mix(self.seed, step))
        drawn = self.order.rows(step)
        shape = (whole, *self.encoded.latent_shape(drawn[0]))
        posterior = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        if self.noise_offset:
            noise = add_noise_offset(noise, self.noise_offset, generator)
        timesteps = torch.randint(timesteps_from.start, timesteps_from.stop, (whole,), generator=generator)
        places, rows = range(step * whole, (step + 1) * whole)[mine], drawn[mine]
        rngs = [random.Random(mix(self.seed, place + 1)) for place in places]
        chosen = [rng.choice(self.encoded.images.captions[row]) for row, rng in zip(rows, rngs, strict=True)]
        captions = [self._reworded(*one) for one in zip(rows, places, chosen, strict=True)]
        frames = [self.encoded.frame(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        return Batch(
            self.encoded.latents(rows, frames, posterior[mine]),
            self.encoded.conditioning(captions, frames),
            noise[mine],
            timesteps[mine],
        )

    def _reworded(self, row: int, place: int, caption: str) -> str:
        """The caption of a picture as it is met in this place; crops and flips are drawn apart."""
        return self.encoded.wording(row)(caption, random.Random(f"{self.seed}/{place}/words"))


def training_batches(
    settings: UnetSettings,
    parts: Parts,
    images: CaptionedImages,
    framing: Framing,
    processes: int = 1,
    rank: int = 0,
    quiet: bool = False,
) -> BatchMaker:
    """One process's share of every training batch; latents are made once where nothing random forbids it.

    Raises:
        ValueError: `--cache_latents` with random crops, or timesteps that the schedule doesn't have.
    """
    training, asked, schedule = (
        settings.training,
        settings.data.cache_latents,
        parts.scheduler.config.num_train_timesteps,
    )
    random_framing = framing.is_random(images)
    if asked and random_framing:
        raise ValueError("--cache_latents keeps one crop of a picture, but crops are random here. Add --center_crop.")
    cache = not random_framing and _fits(parts, images, framing) if asked is None else asked
    return BatchMaker(
        EncodedImages(parts, images, framing, cache, quiet, wording=wording_of(settings.data)),
        training.train_batch_size,
        training.seed,
        schedule,
        processes,
        rank,
        training.noise_offset,
        training.timesteps(schedule),
    )


def _fits(parts: Parts, images: CaptionedImages, framing: Framing) -> bool:
    """Whether the latents of all pictures are few enough to be kept by every process."""
    area = parts.pixels_per_latent**2
    targets = (framing.of(look).target(size) for look, size in zip(images.looks, images.sizes, strict=True))
    numbers = sum(width * height for width, height in targets) // area * int(parts.vae.config.latent_channels)
    size = 2 * 4 * numbers
    if size > MOST_CACHED:
        logger.info(
            "Pictures are encoded anew each time: their latents would take %.1f GiB in each process. "
            "--cache_latents keeps them all the same.",
            size / 2**30,
        )
    return size <= MOST_CACHED


def length_of(training: TrainingSettings, batches: BatchMaker, pictures_a_step: int) -> tuple[int, int]:
    """Optimizer steps of the run, and of an epoch.

    An epoch is as many steps as its pictures fill. A run that is counted in epochs is as long as it takes until every
    picture was met in each, which takes longer where a bucket has fewer pictures than a batch.
    """
    of_epoch = math.ceil(batches.order.pictures / pictures_a_step)
    if training.max_train_steps:
        return training.max_train_steps, of_epoch
    epochs = training.num_train_epochs or DEFAULT_EPOCHS
    least = math.ceil(batches.order.batches(epochs) / training.gradient_accumulation_steps)
    return max(epochs * of_epoch, least), of_epoch


class KeptOut(NamedTuple):
    """Batches of pictures that training doesn't see."""

    validation: BatchMaker | None = None
    """By `--validation_samples`."""
    test: BatchMaker | None = None
    """By `--test_samples`: their noise, too, is the same for every seed."""


def batches_kept_out(training: TrainingSettings, parts: Parts, split: Split, framing: Framing) -> KeptOut:
    """Of both parts that a run keeps out."""
    kept_out = None if split.kept_out is None else _batches_apart(training, parts, split.kept_out, framing)
    test = None if split.test is None else _batches_apart(replace(training, seed=0), parts, split.test, framing)
    return KeptOut(kept_out, test)


def _batches_apart(training: TrainingSettings, parts: Parts, images: CaptionedImages, framing: Framing) -> BatchMaker:
    """Batches of pictures that training doesn't see, cropped at their centre."""
    schedule = parts.scheduler.config.num_train_timesteps
    encoded = EncodedImages(parts, images.plainly(), framing.still(), cache=True)
    counts = [len(rows) for rows in encoded.buckets()]
    whole = math.gcd(training.train_batch_size, *counts)  # each picture counts once, whatever its bucket
    return BatchMaker(
        encoded,
        min(training.train_batch_size, len(images)) if len(counts) == 1 else whole,
        training.seed,
        schedule,
        trained=training.timesteps(schedule),
    )
