"""Latents and text embeddings: once for the whole data set where nothing random forbids it, else batch by batch."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from .ahead import in_order
from .captioned import CHECKED_UP_TO
from .conditioning import (
    Conditioning,
    LateConditioning,
    conditioning_of,
    warn_of_long,
)
from .data import CaptionedImages
from .emphasis import Emphasis
from .encoded_captions import IN_MEMORY, Captions, Share
from .encodings import Encodings
from .framing import Frame, Framing, WrongSizeError
from .masks import mask_of
from .models import Parts
from .wording import Wording

logger = logging.getLogger("reslora_sd")


class Prepared(NamedTuple):
    """A picture as far as it is known without the device."""

    pixels: Tensor | None = None
    """(3, height, width)"""
    moments: Tensor | None = None
    """Mean and deviation of the VAE's posterior, (2 c, h, w), float32 on the CPU."""
    mask: Tensor | None = None
    """(1, h, w) in latents."""
    key: str | None = None
    """Where moments and mask are to be kept on disk, once they are made."""
    noted: Mapping[str, list[Any]] = {}
    """Contents of files that a worker read."""


class EncodedImages:
    """A data set as the U-Net takes it: latents and embeddings by row, kept where nothing random forbids it.

    With `parts.encodings`, what was made is on disk; up to `IN_MEMORY` bytes of it are in memory, too.

    Args:
        parts: the frozen model; its VAE and text encoder run on their own device, in float32 for the VAE's moments.
        cache: whether the VAE's moments of all pictures are kept (embeddings of all captions always are).
        check: whether all pictures are decoded once, where they aren't for the cache.
        wording: how captions change each time, where their folder says nothing of it. Those with many forms are encoded
            batch by batch.
        emphasis: which pictures and parts of them count how much.
        share: of the work of a cache on disk.

    Memory of the cache: two float32 numbers for each latent number, 128 KiB for a picture of 512 pixels.
    """

    _wording, _emphasis = Wording(), Emphasis()

    def __init__(
        self,
        parts: Parts,
        images: CaptionedImages,
        framing: Framing,
        cache: bool,
        quiet: bool = False,
        check: bool = True,
        wording: Wording | None = None,
        emphasis: Emphasis | None = None,
        share: Share | None = None,
    ) -> None:
        self.parts, self.images, self.framing = parts, images, framing
        self._disk: Encodings | None = parts.encodings
        self._share = share or Share()
        self._emphasis = emphasis or Emphasis()
        self._wording = wording or Wording()
        self._kept: dict[int, Prepared] = {}
        pictures = range(len(images))
        fixed = {caption for row in pictures if not self.wording(row).is_varied for caption in images.captions[row]}
        late = parts.adapted_text
        at_first = self._disk is None or len(images) <= CHECKED_UP_TO
        if not quiet:
            warn_of_long(parts, sorted({caption for captions in images.captions for caption in captions}))
        self._words = Captions(parts, [] if late else sorted(fixed | {""}), quiet, self._share, at_first)
        if cache and at_first:
            self._encode_all(quiet)
        elif check and at_first and self._disk is not None and self._have_few_forms:
            self._fill(list(pictures), quiet)  # mirrored ones are made when they are met
        elif check:
            images.check()

    @property
    def in_memory(self) -> bool:
        """Whether nothing is read or decoded any more."""
        return len(self._kept) == len(self.images)

    @property
    def _have_few_forms(self) -> bool:
        return all(self._framing(row).has_few_forms(size) for row, size in enumerate(self.images.sizes))

    def _encode_all(self, quiet: bool) -> None:
        rows = [row for bucket in self.buckets() for row in bucket]
        if self._disk is not None:
            self._fill(rows, quiet)
            area = sum(channels * height * width for channels, height, width in map(self.latent_shape, rows))
            if 2 * 4 * area > IN_MEMORY:
                return
        read = self._disk is not None
        todo = in_order(self._still, rows, 0 if read else self._share.workers)
        for row, found in tqdm(zip(rows, todo, strict=True), "Encoding pictures", len(rows), disable=quiet or read):
            mask = (
                None if found.mask is None else found.mask.clone()
            )  # a worker's memory, and an open file, ends with it
            self._kept[row] = Prepared(moments=self._moments(found), mask=mask)

    def _fill(self, rows: Sequence[int], quiet: bool) -> None:
        """Puts on disk what isn't there; processes share the pictures, and wait for each other."""
        assert self._disk is not None
        mine = rows[self._share.rank :: self._share.processes]
        missing = [row for row in mine if not self._is_there(row)]
        todo = in_order(self._still, missing, self._share.workers)
        for found in tqdm(todo, "Encoding pictures", len(missing), disable=quiet or not missing):
            self._moments(found)
        self._disk.disk.remember()
        self._share.wait()
        if not quiet:
            count, size = self._disk.disk.size()
            said = f"{len(missing)} of {len(mine)} pictures were encoded, the others were in"
            logger.info("%s %s: %d entries, %.2f GiB.", said, self._disk.disk.folder, count, size / 2**30)

    def _still(self, row: int) -> Prepared:
        return self._prepared(row, self.frame(row, random.Random(0)))

    def prepared(self, rows: Sequence[int], frames: Sequence[Frame]) -> list[Prepared]:
        """The pictures of a batch, without the VAE's work where it isn't done yet."""
        if self._kept:
            return [self._kept[row] for row in rows]
        return [self._prepared(row, frame) for row, frame in zip(rows, frames, strict=True)]

    def _is_there(self, row: int) -> bool:
        """Whether the cache on disk has the picture, whole or damaged."""
        key = self._key(row, self.frame(row, random.Random(0)))
        return self._disk is not None and key is not None and self._disk.disk.has(key)

    def _key(self, row: int, frame: Frame) -> str | None:
        """Where the disk has the picture, or would have it; one of many random crops isn't kept."""
        framing = self._framing(row)
        if self._disk is None or not framing.has_few_forms(self.images.sizes[row]):
            return None
        return self._disk.of_picture(self.images, row, frame, framing.interpolation, self._emphasis.masked)

    def _prepared(self, row: int, frame: Frame) -> Prepared:
        key = self._key(row, frame)
        if self._disk is None or key is None:
            return self._decoded(row, frame)
        noted = self._disk.disk.drained()
        channels, height, width = self.latent_shape(row)
        found = self._disk.disk.get(key, {"moments": (2 * channels, height, width), "mask": (1, height, width)})
        if found is None or "moments" not in found:
            return self._decoded(row, frame)._replace(key=key, noted=noted)
        return Prepared(moments=found["moments"], mask=found.get("mask"), noted=noted)

    def latents(self, prepared: Sequence[Prepared], noise: Tensor) -> Tensor:
        """Samples of the VAE's posterior, scaled.  pictures of one bucket, (batch, c, h, w) -> (batch, c, h, w)"""
        mean, deviation = torch.stack([self._moments(one) for one in prepared]).chunk(2, dim=1)
        sample: Tensor = (mean + deviation * noise) * self.parts.vae.config.scaling_factor
        return sample

    def weights(self, rows: Sequence[int], prepared: Sequence[Prepared]) -> Tensor | None:
        """How much each part of each picture counts; `None` where all count alike."""
        return self._emphasis.weights([self.images.priors[row] for row in rows], [one.mask for one in prepared])

    def conditioning(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning | LateConditioning:
        """What the U-Net is told of a batch."""
        time_ids = torch.tensor([frame.time_ids for frame in frames])
        if self.parts.adapted_text:
            return LateConditioning(self.parts, tuple(captions), time_ids)
        return conditioning_of(self._words(captions), time_ids)

    def wording(self, row: int) -> Wording:
        """How the captions of a picture change."""
        return self.images.looks[row].wording or self._wording

    def frame(self, row: int, rng: random.Random) -> Frame:
        """What becomes of a picture this time."""
        return self._framing(row).frame(self.images.sizes[row], rng)

    def latent_shape(self, row: int) -> tuple[int, int, int]:
        """Channels, height, width."""
        width, height = (
            side // self.parts.pixels_per_latent for side in self._framing(row).target(self.images.sizes[row])
        )
        return int(self.parts.vae.config.latent_channels), height, width

    def buckets(self) -> list[list[int]]:
        """Rows of pictures of one shape each, the narrowest first."""
        found: dict[tuple[int, int, int], list[int]] = {}
        for row in range(len(self.images)):
            found.setdefault(self.latent_shape(row), []).append(row)
        return [found[shape] for shape in sorted(found, key=lambda shape: (shape[2], shape[1]))]

    def _framing(self, row: int) -> Framing:
        return self.framing.of(self.images.looks[row])

    def _decoded(self, row: int, frame: Frame) -> Prepared:
        image, framing = self.images.image(row), self._framing(row)
        try:
            pixels = framing.pixels(image, frame)
        except WrongSizeError as error:
            raise ValueError(f"Picture {row} of {self.images.name}{self.images.places[row]}: {error}") from error
        mask = mask_of(self.images, row, image) if self._emphasis.masked else None
        if mask is None:
            return Prepared(pixels)
        return Prepared(pixels, None, functional.avg_pool2d(framing.mask(mask, frame), self.parts.pixels_per_latent))

    @torch.no_grad()
    def _moments(self, picture: Prepared) -> Tensor:
        """Mean and deviation of the posterior.  -> (2 c, h, w), float32, on the CPU

        Each picture alone: in a batch, rounding depends on its neighbours.
        """
        if self._disk is not None and picture.noted:
            self._disk.disk.take(picture.noted)
        if picture.moments is not None:
            return picture.moments
        assert picture.pixels is not None
        vae = self.parts.vae
        posterior = vae.encode(picture.pixels[None].to(vae.device, vae.dtype)).latent_dist
        found = torch.cat([posterior.mean, posterior.std], dim=1).float().cpu()[0]
        if self._disk is not None and picture.key:
            masks = {} if picture.mask is None else {"mask": picture.mask}
            self._disk.disk.put(picture.key, {"moments": found, **masks})
        return found
