"""Samples of a pipeline and their sheet: the same code for pretraining's progress and for the base model's
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SHEET_PROMPTS = (
    "grinning face",
    "cat face",
    "red apple",
    "green book",
    "dog face",
    "rocket",
    "birthday cake",
    "penguin",
    "red heart",
    "owl",
    "pizza",
    "deciduous tree",
    "robot",
    "umbrella",
    "soccer ball",
    "key",
)


def sample_pictures(
    pipeline: Any, prompts: Sequence[str], steps: int, guidance: float, seed: int = 0, batch_size: int = 16
) -> Tensor:
    """One picture a prompt, number i from seed `seed + i`, whatever the batch size.  -> (n, 3, size, size)
    uint8
    """
    pictures = []
    for first in range(0, len(prompts), batch_size):
        chunk = list(prompts[first : first + batch_size])
        generators = [torch.Generator().manual_seed(seed + first + k) for k in range(len(chunk))]
        made = pipeline(
            chunk,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        ).images
        pictures.append(torch.from_numpy((made * 255).round().astype(np.uint8)).permute(0, 3, 1, 2))
    return torch.cat(pictures)


def write_sheet(pictures: Tensor, captions: Sequence[str], file: Path, columns: int = 8, scale: int = 2) -> None:
    """A PNG of pictures in rows with their captions below.  (n, 3, size, size) uint8"""
    size = pictures.shape[-1] * scale
    label, gap = 14, 4
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * (size + gap) + gap, rows * (size + label + gap) + gap), (225, 225, 225))
    draw = ImageDraw.Draw(sheet)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = gap + (k % columns) * (size + gap)
        top = gap + (k // columns) * (size + label + gap)
        tile = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left, top))
        draw.text((left, top + size + 1), caption[: size // 6], fill="black")
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
