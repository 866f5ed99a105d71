"""Latents and text embeddings: once for the whole data set where nothing random forbids it, else batch by batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from .conditioning import Conditioning, conditioning_of, encode_captions, warn_of_long
from .data import CaptionedImages
from .emphasis import Emphasis
from .framing import Frame, Framing, WrongSizeError
from .masks import mask_of
from .models import Parts
from .wording import Wording


class Prepared(NamedTuple):
    """A picture as far as it is known without the VAE, or with it."""

    pixels: Tensor | None = None
    """(3, height, width)"""
    moments: Tensor | None = None
    """Mean and deviation of the VAE's posterior, (2 c, h, w), float32 on the CPU."""
    mask: Tensor | None = None
    """(1, h, w) in latents."""


class EncodedImages:
    """A data set as the U-Net takes it: latents and embeddings by row, kept where nothing random forbids it.

    Args:
        parts: the frozen model; its VAE and text encoder run on their own device, in float32 for the VAE's moments.
        cache: whether the VAE's moments of all pictures are kept (embeddings of all captions always are).
        check: whether all pictures are decoded once, where they aren't for the cache.
        wording: how captions change each time, where their folder says nothing of it. Those with many forms are encoded
            batch by batch.

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
    ) -> None:
        self.parts, self.images, self.framing = parts, images, framing
        self._emphasis = emphasis or Emphasis()
        self._wording = wording or Wording()
        pictures = range(len(images))
        fixed = {caption for row in pictures if not self.wording(row).is_varied for caption in images.captions[row]}
        self._words = encode_captions(parts, sorted(fixed | {""}), quiet)
        if not quiet:
            warn_of_long(parts, sorted({caption for captions in images.captions for caption in captions} - fixed))
        self._kept: dict[int, Prepared] = {}
        if cache:
            self._encode_all(quiet)
        elif check:
            images.check()

    def _encode_all(self, quiet: bool) -> None:
        with tqdm(total=len(self.images), desc="Encoding pictures", disable=quiet) as bar:
            for row in (row for bucket in self.buckets() for row in bucket):
                found = self._decoded(row, self.frame(row, random.Random(0)))
                self._kept[row] = Prepared(moments=self._moments(found), mask=found.mask)
                bar.update()

    def prepared(self, rows: Sequence[int], frames: Sequence[Frame]) -> list[Prepared]:
        """The pictures of a batch, without the VAE's work where it isn't done yet."""
        if self._kept:
            return [self._kept[row] for row in rows]
        return [self._decoded(row, frame) for row, frame in zip(rows, frames, strict=True)]

    def latents(self, prepared: Sequence[Prepared], noise: Tensor) -> Tensor:
        """Samples of the VAE's posterior, scaled.  pictures of one bucket, (batch, c, h, w) -> (batch, c, h, w)"""
        mean, deviation = torch.stack([self._moments(one) for one in prepared]).chunk(2, dim=1)
        sample: Tensor = (mean + deviation * noise) * self.parts.vae.config.scaling_factor
        return sample

    def weights(self, rows: Sequence[int], prepared: Sequence[Prepared]) -> Tensor | None:
        """How much each part of each picture counts; `None` where all count alike."""
        return self._emphasis.weights([self.images.priors[row] for row in rows], [one.mask for one in prepared])

    def conditioning(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning:
        """What the U-Net is told of a batch."""
        time_ids = torch.tensor([frame.time_ids for frame in frames])
        new = list(dict.fromkeys(caption for caption in captions if caption not in self._words))
        words = self._words | (encode_captions(self.parts, new, quiet=True) if new else {})
        return conditioning_of([words[caption] for caption in captions], time_ids)

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
        if picture.moments is not None:
            return picture.moments
        assert picture.pixels is not None
        vae = self.parts.vae
        posterior = vae.encode(picture.pixels[None].to(vae.device, vae.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1).float().cpu()[0]
