"""Which pictures, noise and timesteps each training step sees: a function of the seed and the step alone.

Nothing depends on earlier steps, so that a resumed run continues exactly, methods compare on the same draws, and
several processes together see what one process with the joined batch would.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .ahead import in_order, workers_here
from .conditioning import Conditioning, LateConditioning
from .data import CaptionedImages, Split
from .defaults import DEFAULT_EPOCHS
from .emphasis import Emphasis, emphasis_of
from .encoded import EncodedImages, Prepared
from .encoded_captions import MOST_CACHED, Share
from .framing import Frame, Framing
from .loss import add_noise_offset
from .models import Parts
from .order import BucketOrder, mix
from .settings import TrainingSettings, UnetSettings
from .wording import wording_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """The inputs of `diffusion_loss` for one process."""

    latents: Tensor
    conditioning: Conditioning | LateConditioning
    noise: Tensor
    timesteps: Tensor
    weights: Tensor | None = None
    """How much each part of each picture counts (`Emphasis.weights`)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Moves all, and casts all but timesteps, time ids and weights."""
        latents, noise = self.latents.to(device, dtype), self.noise.to(device, dtype)
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(latents, self.conditioning.to(device, dtype), noise, self.timesteps.to(device), weights)


class Draft(NamedTuple):
    """A batch as far as it is known without the device."""

    rows: list[int]
    captions: list[str]
    frames: list[Frame]
    prepared: list[Prepared]
    posterior: Tensor
    """The noise of the VAE's posterior."""
    noise: Tensor
    timesteps: Tensor


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
        repeats, priors = encoded.images.repeats, encoded.images.priors
        buckets = [[row for row in rows for _ in range(repeats[row])] for rows in encoded.buckets()]
        known = frozenset(row for row, prior in enumerate(priors) if prior)
        self.order = BucketOrder(buckets, batch_size * processes, seed, known)
        self.waited = 0.0
        """Seconds that batches to train on took to be read and decoded, or were waited for."""
        self._ahead: tuple[int, int, Iterator[Draft]] | None = None
        """The next step of those that workers prepare, the first after them, and their drafts."""

    def __call__(self, step: int) -> Batch:
        """The batch that a (micro) step trains on, counted from 0, on the CPU in float32."""
        started = time.perf_counter()
        draft = self._next(step)
        self.waited += time.perf_counter() - started
        return self._finished(draft)

    def ahead(self, start: int, stop: int, workers: int) -> None:
        """Has worker processes read and decode the pictures of these steps, while the steps before are trained on.

        Nothing is done where all latents are in memory.
        """
        workers = 0 if self.encoded.in_memory else workers_here(workers)
        self._ahead = (start, stop, in_order(self._draft, range(start, stop), workers)) if workers else None

    def _next(self, step: int) -> Draft:
        if self._ahead is None or self._ahead[0] != step:
            return self._draft(step)
        _, stop, drafts = self._ahead
        draft = next(drafts)
        self._ahead = (step + 1, stop, drafts) if step + 1 < stop else None
        return draft

    def between(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps `start` to `stop - 1` to measure on: of all timesteps, as sampling meets all."""
        return (self._finished(self._draft(step, range(self.timesteps))) for step in range(start, stop))

    def every_picture(self, least: int = 0) -> Iterator[Batch]:
        """As `between`: each picture once or more, and `least` pictures or more in all."""
        return self.between(0, max(math.ceil(least / self.batch_size), self.order.batches(1)))

    def _draft(self, step: int, timesteps_from: range | None = None) -> Draft:
        timesteps_from = timesteps_from or self.trained
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
        prepared = self.encoded.prepared(rows, frames)
        return Draft(rows, captions, frames, prepared, posterior[mine], noise[mine], timesteps[mine])

    def _finished(self, draft: Draft) -> Batch:
        return Batch(
            self.encoded.latents(draft.prepared, draft.posterior),
            self.encoded.conditioning(draft.captions, draft.frames),
            draft.noise,
            draft.timesteps,
            self.encoded.weights(draft.rows, draft.prepared),
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
    wait: Callable[[], None] = lambda: None,
) -> BatchMaker:
    """One process's share of every training batch; latents are made once where nothing random forbids it.

    Raises:
        ValueError: `--cache_latents` with random crops, or timesteps that the schedule doesn't have.
    """
    training, asked = settings.training, settings.data.cache_latents
    random_framing = framing.is_random(images)
    if asked and random_framing:
        raise ValueError("--cache_latents keeps one crop of a picture, but crops are random here. Add --center_crop.")
    workers = workers_here(training.dataloader_num_workers)
    if random_framing and not quiet:
        _say_crops(images, framing, workers)
    on_disk = parts.encodings is not None
    cache = not random_framing and (on_disk or _fits(parts, images, framing)) if asked is None else asked
    share = Share(processes, rank, wait, workers)
    return BatchMaker(
        EncodedImages(
            parts,
            images,
            framing,
            cache,
            quiet,
            wording=wording_of(settings.data),
            emphasis=emphasis_of(settings.data),
            share=share,
        ),
        training.train_batch_size,
        training.seed,
        schedule := int(parts.scheduler.config.num_train_timesteps),
        processes,
        rank,
        training.noise_offset,
        training.timesteps(schedule),
    )


def _say_crops(images: CaptionedImages, framing: Framing, workers: int) -> None:
    """Tells why pictures with random crops are kept nowhere, and what is faster."""
    pictures = zip(images.looks, images.sizes, strict=True)
    count = sum(not framing.of(look).has_few_forms(size) for look, size in pictures)
    if count:
        logger.info(
            "Crops of %d pictures are random, and each is met once: they are encoded each time, and decoded %s. "
            "--center_crop, or buckets, have one crop of each, whose latents are kept (with --cache_dir on disk).",
            count,
            f"by {workers} worker{'s' * (workers > 1)} ahead of the device"
            if workers
            else "in the loop; --dataloader_num_workers has workers decode them ahead of the device",
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
            "--cache_latents keeps them all the same, and --cache_dir on disk.",
            size / 2**30,
        )
    return size <= MOST_CACHED


def length_of(training: TrainingSettings, batches: BatchMaker, pictures_a_step: int) -> tuple[int, int]:
    """Optimizer steps of the run, and of an epoch.

    An epoch is as many steps as its pictures fill.
    """
    of_epoch = math.ceil(batches.order.pictures / pictures_a_step)
    if training.max_train_steps:
        return training.max_train_steps, of_epoch
    return (training.num_train_epochs or DEFAULT_EPOCHS) * of_epoch, of_epoch


class KeptOut(NamedTuple):
    """Batches of pictures that training doesn't see."""

    validation: BatchMaker | None = None
    """By `--validation_samples`."""
    test: BatchMaker | None = None
    """By `--test_samples`: their noise, too, is the same for every seed."""


def batches_kept_out(
    training: TrainingSettings, parts: Parts, split: Split, framing: Framing, emphasis: Emphasis | None = None
) -> KeptOut:
    """Of both parts that a run keeps out."""

    def apart(images: CaptionedImages | None, training: TrainingSettings) -> BatchMaker | None:
        return None if images is None else _batches_apart(training, parts, images, framing, emphasis)

    return KeptOut(apart(split.kept_out, training), apart(split.test, replace(training, seed=0)))


def _batches_apart(
    training: TrainingSettings, parts: Parts, images: CaptionedImages, framing: Framing, emphasis: Emphasis | None
) -> BatchMaker:
    """Batches of pictures that training doesn't see, cropped at their centre."""
    schedule = parts.scheduler.config.num_train_timesteps
    encoded = EncodedImages(parts, images.plainly(), framing.still(), cache=True, emphasis=emphasis)
    counts = [len(rows) for rows in encoded.buckets()]
    whole = math.gcd(training.train_batch_size, *counts)  # each picture counts once, whatever its bucket
    return BatchMaker(
        encoded,
        min(training.train_batch_size, len(images)) if len(counts) == 1 else whole,
        training.seed,
        schedule,
        trained=training.timesteps(schedule),
    )
