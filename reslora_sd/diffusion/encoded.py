"""Latents and text embeddings: once for the whole data set where nothing random forbids it, else batch by batch."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .conditioning import Conditioning, LateConditioning, conditioning_of, encode_captions, warn_of_long
from .data import CaptionedImages
from .framing import Frame, Framing, WrongSizeError
from .models import Parts
from .wording import Wording

_BATCH = 16


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

    _wording = Wording()

    def __init__(
        self,
        parts: Parts,
        images: CaptionedImages,
        framing: Framing,
        cache: bool,
        quiet: bool = False,
        check: bool = True,
        wording: Wording | None = None,
    ) -> None:
        self.parts, self.images, self.framing = parts, images, framing
        self._wording = wording or Wording()
        pictures = range(len(images))
        fixed = {caption for row in pictures if not self.wording(row).is_varied for caption in images.captions[row]}
        fixed = set() if parts.adapted_text else fixed | {""}
        self._words = encode_captions(parts, sorted(fixed), quiet)
        if not quiet:
            warn_of_long(parts, sorted({caption for captions in images.captions for caption in captions} - fixed))
        self._moments: dict[int, Tensor] = {}
        if cache:
            with tqdm(total=len(images), desc="Encoding pictures", disable=quiet) as bar:
                for bucket in self.buckets():
                    for start in range(0, len(bucket), _BATCH):
                        rows = bucket[start : start + _BATCH]
                        self._moments.update(zip(rows, self._encode(rows, self._still_frames(rows)), strict=True))
                        bar.update(len(rows))
        elif check:
            images.check()

    def latents(self, rows: Sequence[int], frames: Sequence[Frame], noise: Tensor) -> Tensor:
        """Samples of the VAE's posterior, scaled.  rows of one bucket, (batch, c, h, w) -> (batch, c, h, w)"""
        moments = torch.stack([self._moments[row] for row in rows]) if self._moments else self._encode(rows, frames)
        mean, deviation = moments.chunk(2, dim=1)
        sample: Tensor = (mean + deviation * noise) * self.parts.vae.config.scaling_factor
        return sample

    def conditioning(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning | LateConditioning:
        """What the U-Net is told of a batch."""
        time_ids = torch.tensor([frame.time_ids for frame in frames])
        if self.parts.adapted_text:
            return LateConditioning(self.parts, tuple(captions), time_ids)
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

    def _still_frames(self, rows: Sequence[int]) -> list[Frame]:
        return [self.frame(row, random.Random(0)) for row in rows]

    def _pixels(self, row: int, frame: Frame) -> Tensor:
        try:
            return self._framing(row).pixels(self.images.image(row), frame)
        except WrongSizeError as error:
            raise ValueError(f"Picture {row} of {self.images.name}{self.images.places[row]}: {error}") from error

    @torch.no_grad()
    def _encode(self, rows: Sequence[int], frames: Sequence[Frame]) -> Tensor:
        """Mean and deviation of the posterior.  -> (batch, 2 c, h, w), float32, on the CPU"""
        vae = self.parts.vae
        found = []
        for row, frame in zip(rows, frames, strict=True):  # each alone: in a batch, rounding depends on its neighbours
            pixels = self._pixels(row, frame)[None].to(vae.device, vae.dtype)
            posterior = vae.encode(pixels).latent_dist
            found.append(torch.cat([posterior.mean, posterior.std], dim=1).float().cpu())
        return torch.cat(found)
