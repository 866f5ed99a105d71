"""What a tiny Stable Diffusion is made of, besides its autoencoder: tokenizer, text encoder, U-Net,
scheduler, folder.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TRAINING_NAMES_FILE = "training_names.json"


def train_tokenizer(captions: Sequence[str], vocabulary: int, tokens: int) -> Any:
    """A `CLIPTokenizer` whose byte pairs come from the captions; raises `ValueError` without captions."""
    from transformers import CLIPTokenizer

    if not captions:
        raise ValueError("The tokenizer needs captions to learn from: got none. Pass a data folder with captions.")
    bytes_and_ends = 2 * 256 + 2  # CLIP's alphabet: every byte, alone and at the end of a word, and two marks
    if vocabulary < bytes_and_ends:
        raise ValueError(
            f"The vocabulary must hold every byte: got {vocabulary} entries. "
            f"Set --vocabulary to {bytes_and_ends} or more."
        )
    blank = CLIPTokenizer()
    tokenizer = blank.train_new_from_iterator([captions], vocab_size=vocabulary, show_progress=False)
    tokenizer.model_max_length = tokens
    return tokenizer


def build_text_encoder(tokenizer: Any, width: int, layers: int) -> Any:
    """A CLIP text encoder of heads of 32 that fits the tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    if width % 32:
        raise ValueError(f"The text width must be a multiple of 32: got {width}. Set --text_width accordingly.")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_unet(channels: Sequence[int], layers: int, text_width: int, latent_channels: int, size: int) -> Any:
    """A diffusers `UNet2DConditionModel` with cross-attention at every size."""
    from diffusers import UNet2DConditionModel

    if any(width % 16 for width in channels):
        raise ValueError(
            f"U-Net widths must be multiples of 16: got {list(channels)}. Set --unet_channels accordingly."
        )
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> Any:
    """Stable Diffusion's noise schedule with terminal SNR zero, sampled by DDIM from the last step on."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def token_ids(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Padded and cut to the model's length.  -> (n, tokens) long"""
    encoded = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


def build_pipeline(vae: nn.Module, tokenizer: Any, text_encoder: nn.Module, unet: nn.Module) -> Any:
    """A plain `StableDiffusionPipeline` around the modules, without a safety checker."""
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(pipeline: Any, folder: Path, training_names: Sequence[str]) -> None:
    """Write the pipeline in float16 to `folder`, and beside it which names it was trained on.

    Loaded without a dtype, all of its parts become float32: diffusers does that by itself, transformers reads the
    dtype from the config. What is there stays whole until the new files are complete; other files, such as a model
    card, are kept.
    """
    half = {
        name: copy.deepcopy(module).to(torch.float16) if isinstance(module, nn.Module) else module
        for name, module in pipeline.components.items()
    }
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    type(pipeline)(**half, requires_safety_checker=False).save_pretrained(partial)
    for file in partial.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where this machine had the weights that training began with
        if "dtype" in config:
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    names = json.dumps(sorted(set(training_names)))
    (partial / TRAINING_NAMES_FILE).write_text(names + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(file for file in partial.rglob("*") if file.is_file()):
        target = folder / source.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    shutil.rmtree(partial)
