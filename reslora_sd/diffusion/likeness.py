"""How near drawn pictures are to wanted ones: distances between the latents of a VAE, and percentiles of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_BATCH = 16


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pictures: Sequence[Image.Image]) -> Tensor:
    """Scaled mean latents of pictures of one size, flat.  -> (n, d)"""
    scale, found = float(vae.config.scaling_factor), []
    for start in range(0, len(pictures), _BATCH):
        pixels = np.stack([np.asarray(one, dtype=np.float32) for one in pictures[start : start + _BATCH]]) / 127.5 - 1
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(vae.device, vae.dtype)  # (batch, 3, h, w)
        found.append(vae.encode(batch).latent_dist.mean.flatten(1).float().cpu() * scale)
    return torch.cat(found)


def distances(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Root mean square differences.  (n, d), (m, d) -> (n, m)"""
    found: Tensor = torch.cdist(drawn, wanted) / drawn.shape[1] ** 0.5
    return found


def percentiles(distances: Tensor, own: Sequence[int]) -> Tensor:
    """Share of the other names that lie farther from sample i than name `own[i]`, ties half.  (n, names) ->
    (n,)
    """
    true = distances[torch.arange(len(own)), list(own)][:, None]
    others = distances.shape[1] - 1
    farther = (distances > true).sum(1) + 0.5 * ((distances == true).sum(1) - 1)
    return farther / others
