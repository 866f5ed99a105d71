"""First stage of pretraining: an autoencoder that takes 64x64 drawings to 16x16 latents and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .data import to_unit_range


def build_vae(channels: Sequence[int], layers: int, latent_channels: int, size: int) -> Any:
    """A diffusers `AutoencoderKL` without attention; each width after the first halves the resolution."""
    from diffusers import AutoencoderKL

    groups = 8
    if any(width % groups for width in channels):
        raise ValueError(
            f"VAE widths must be multiples of {groups}: got {list(channels)}. Set --vae_channels accordingly."
        )
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=groups,
        mid_block_add_attention=False,
        sample_size=size,
        force_upcast=False,
    )


def _random(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _shifted(picture: Tensor, down: int, right: int) -> Tensor:
    """Moved by pixels, white where nothing is left.  (3, h, w) -> (3, h, w)"""
    moved = functional.pad(picture, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), value=1.0)
    height, width = picture.shape[1:]
    return moved[:, max(-down, 0) : max(-down, 0) + height, max(-right, 0) : max(-right, 0) + width]


def _scaled(picture: Tensor, size: int) -> Tensor:
    """Drawn at `size` pixels, in the middle of a canvas of the old size.  (3, h, h) -> (3, h, h)"""
    full = picture.shape[-1]
    small = functional.interpolate(picture[None], size=(size, size), mode="bilinear", antialias=True)[0]
    before = (full - size) // 2
    return functional.pad(small, (before, full - size - before) * 2, value=1.0)


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Flips, turns, shifts, sizes, swapped and scaled colours, drawings on top of drawings.

    (n, 3, size, size) in -1 ... 1 -> the same; n must be at least 1.
    """
    n, _, size, _ = pictures.shape
    chance = torch.rand(n, 8, generator=generator)
    result: list[Tensor] = []
    for picture, p in zip(pictures, chance.tolist(), strict=True):
        if p[0] < 0.5:
            picture = picture.flip(2)
        if p[1] < 0.15:
            picture = picture.transpose(1, 2)
        if p[2] < 0.2:
            picture = _scaled(picture, _random(generator, size // 2, size))
        if p[3] < 0.5:
            reach = size // 8
            picture = _shifted(picture, _random(generator, -reach, reach), _random(generator, -reach, reach))
        if p[4] < 0.4:
            picture = picture[torch.randperm(3, generator=generator)]
        if p[5] < 0.2:
            floor = torch.rand(3, 1, 1, generator=generator) * 0.5
            picture = (picture + 1) * (1 - floor) + 2 * floor - 1 if p[6] < 0.5 else (picture + 1) * (1 - floor) - 1
        if p[7] < 0.12 and result:
            other = result[_random(generator, 0, len(result) - 1)]
            picture = torch.minimum(picture, other)
        result.append(picture)
    return torch.stack(result)


class ReconstructionLoss:
    """The loss of the first stage: root of the squared error of each drawing, and a slight KL.

    The figure that counts is a mean of decibels, a logarithm of each drawing's squared error; the root lies
    between that (which lets easy drawings outweigh all others) and the plain mean (which lets hard ones).
    """

    def __init__(
        self, drawings: Tensor, synthetic: Tensor, share: float, batch_size: int, kl_weight: float, bf16: bool
    ):
        self.drawings, self.synthetic = drawings, synthetic
        self.share = share if len(synthetic) else 0.0
        self.batch_size, self.kl_weight, self.bf16 = batch_size, kl_weight, bf16

    def batch(self, generator: torch.Generator) -> Tensor:
        """Augmented drawings.  -> (batch_size, 3, size, size) in -1 ... 1"""
        made = round(self.share * self.batch_size)
        rows = torch.randint(len(self.drawings), (self.batch_size - made,), generator=generator)
        pictures = self.drawings[rows]
        if made:
            rows = torch.randint(len(self.synthetic), (made,), generator=generator)
            pictures = torch.cat([pictures, self.synthetic[rows]])
        order = torch.randperm(len(pictures), generator=generator)
        return augment(to_unit_range(pictures[order]), generator)

    def __call__(self, modules: nn.ModuleDict, generator: torch.Generator, progress: float) -> Tensor:
        """One batch's loss.  -> ()"""
        vae: Any = modules["vae"]
        pictures = self.batch(generator).to(vae.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.bf16):
            posterior = vae.encode(pictures).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            decoded = vae.decode(mean + deviation * noise).sample
        error = (decoded.float() - pictures).square().mean((1, 2, 3))
        divergence = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).mean()
        loss: Tensor = (error + 1e-4).sqrt().mean() + self.kl_weight * divergence
        return loss


@torch.no_grad()
def encode_drawings(vae: Any, pictures: Tensor, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of the latents of uint8 drawings, unscaled.  (n, 3, s, s) -> 2 x (n, c, s/4, s/4)"""
    means, deviations = [], []
    for chunk in torch.split(pictures, batch_size):
        posterior = vae.encode(to_unit_range(chunk).to(vae.device)).latent_dist
        means.append(posterior.mean.cpu())
        deviations.append(posterior.std.cpu())
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def reconstruction_psnr(vae: Any, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """Decibels of each uint8 drawing, encoded to the mean latent and decoded, values clipped to the range.
    -> (n,)
    """
    values = []
    for chunk in torch.split(pictures, batch_size):
        wanted = chunk.float() / 255
        latents = vae.encode(to_unit_range(chunk).to(vae.device)).latent_dist.mean
        decoded = vae.decode(latents).sample.cpu().float().clamp(-1, 1) / 2 + 0.5
        values.append(-10 * (decoded - wanted).square().mean((1, 2, 3)).clamp_min(1e-10).log10())
    return torch.cat(values)
