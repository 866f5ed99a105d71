"""U-Nets that tests are made on: the published configs of SD 1.x, 2.x and SDXL, and shrunken ones of the same shape."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from tests.toys import give_maps as give_maps
from tests.toys import move_away_from_zero as move_away_from_zero

_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD1: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", _CROSS_UP, _CROSS_UP, _CROSS_UP),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2: dict[str, Any] = {
    **SD1,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", _CROSS_DOWN, _CROSS_DOWN),
    "up_block_types": (_CROSS_UP, _CROSS_UP, "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SMALL = {"norm_num_groups": 8, "cross_attention_dim": 24}
SMALL_SD1 = {**SD1, **_SMALL, "sample_size": 16, "block_out_channels": (16, 24, 32, 32), "attention_head_dim": 2}
SMALL_SD2 = {
    **SD2,
    **_SMALL,
    "sample_size": 16,
    "block_out_channels": (16, 24, 32, 32),
    "attention_head_dim": (2, 3, 4, 4),
}
SMALL_SDXL = {
    **SDXL,
    **_SMALL,
    "sample_size": 16,
    "block_out_channels": (16, 24, 32),
    "attention_head_dim": (2, 3, 4),
    "transformer_layers_per_block": (1, 1, 2),
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}


SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": (_CROSS_DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", _CROSS_UP),
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}


def weightless(config: dict[str, Any]) -> UNet2DConditionModel:
    """A U-Net of a published config, on the `meta` device."""
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def small_unet(config: dict[str, Any] | None = None, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A U-Net with random weights; by default two levels, with chains of 1 to 3."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(**(config or SMALL)).to(dtype)


def small_vae(**more: Any) -> Any:
    """A VAE with random weights of the random state, for pictures of 16 pixels; `more` of its config."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


def inputs_for(unet: Any, batch: int = 2, seed: int = 1) -> dict[str, Any]:
    """Random inputs of the U-Net's own size."""
    generator = torch.Generator().manual_seed(seed)
    size = unet.config.sample_size

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(unet.dtype)

    inputs: dict[str, Any] = {
        "sample": draw(batch, 4, size, size),
        "timestep": torch.tensor([3, 700][:batch]),
        "encoder_hidden_states": draw(batch, 7, unet.config.cross_attention_dim),
    }
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": draw(batch, pooled), "time_ids": torch.ones(batch, 6)}
    return inputs
