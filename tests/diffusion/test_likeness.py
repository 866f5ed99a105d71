"""Distances by hand, and latents that don't depend on how many pictures are encoded at once."""

import torch
from diffusers import AutoencoderKL
from PIL import Image

from reslora_sd.diffusion.likeness import distances, latents_of, percentiles


def test_distances_are_root_mean_squares():
    found = distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert torch.allclose(found * 2**0.5, torch.tensor([[5.0, 1.0]]))


def test_the_percentile_is_the_share_of_others_that_are_farther_and_ties_count_half():
    found = percentiles(torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 0.0]]), [0, 0])
    assert torch.allclose(found, torch.tensor([1.0, 0.25]))


def test_latents_are_the_scaled_means_whatever_the_batch(tiny_pipeline_folder):
    vae = AutoencoderKL.from_pretrained(tiny_pipeline_folder, subfolder="vae")
    pictures = [Image.new("RGB", (16, 16), (10 * number, 99, 200)) for number in range(18)]
    found = latents_of(vae, pictures)
    assert found.shape[0] == 18 and torch.allclose(found[17:], latents_of(vae, pictures[17:]), atol=1e-5)
    pixels = torch.full((1, 3, 16, 16), -1.0)
    pixels[:, 1], pixels[:, 2] = 99 / 127.5 - 1, 200 / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean.flatten(1) * vae.config.scaling_factor
    assert torch.allclose(found[:1], mean, atol=1e-5)
