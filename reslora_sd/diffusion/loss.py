"""The training loss of a latent diffusion model: epsilon or v-prediction, with min-SNR weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .conditioning import Conditioning, LateConditioning

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


def diffusion_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    latents: Tensor,
    conditioning: Conditioning | LateConditioning,
    noise: Tensor,
    timesteps: Tensor,
    snr_gamma: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the U-Net's prediction, in float32.

    Args:
        latents: (batch, channels, height, width), scaled by the VAE's factor.
        conditioning: the prompts, and what else the model takes.
        noise: like latents.
        timesteps: (batch,), whole numbers.
        snr_gamma: min-SNR-gamma weights (https://arxiv.org/abs/2303.09556), or `None`.
        weights: how much each part of each picture counts (`Emphasis.weights`), or `None`.

    Returns:
        A number.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    prediction = unet(noisy, timesteps, **conditioning.arguments()).sample
    target = target_of(scheduler, latents, noise, timesteps)
    errors = squared_errors(prediction.float(), target.float(), weights)
    if snr_gamma is not None:
        errors = errors * min_snr_weights(scheduler, timesteps, snr_gamma)
    return errors.mean()


def squared_errors(prediction: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """The mean squared error of each picture, by the weights of its parts.  (batch, c, h, w) -> (batch,)"""
    squares = (prediction - target).square()
    weighted: Tensor = squares if weights is None else squares * weights
    return weighted.flatten(1).mean(1)


def target_of(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the U-Net should predict: the noise, or the velocity.  -> like latents"""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    velocity: Tensor = scheduler.get_velocity(latents, noise, timesteps)
    return velocity


def min_snr_weights(scheduler: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v-prediction.  (batch,) -> (batch,)"""
    from diffusers.training_utils import compute_snr

    snr: Tensor = compute_snr(scheduler, timesteps)
    divisor = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


def add_noise_offset(noise: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Noise with a random constant for each picture and channel (crosslabs.org, "Diffusion with offset noise")."""
    shift = torch.randn(noise.shape[0], noise.shape[1], 1, 1, generator=generator, dtype=noise.dtype)
    return noise + offset * shift
