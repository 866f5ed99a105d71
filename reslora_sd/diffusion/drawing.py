"""Pictures from a pipeline whose VAE may have another precision than its U-Net."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image


@torch.no_grad()
def draw_pictures(pipeline: Any, **asked: Any) -> list[Image.Image]:
    """What `pipeline(**asked).images` would be. SDXL's VAE stays in float32 beside a half U-Net, which diffusers' own
    call doesn't expect."""
    vae = pipeline.vae
    if vae.dtype == pipeline.unet.dtype:
        return list(pipeline(**asked).images)
    latents = pipeline(**asked, output_type="latent").images
    decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return list(pipeline.image_processor.postprocess(decoded, output_type="pil"))
