"""Samples of a pipeline and their sheet: the same code for pretraining's progress and for the base model's
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..diffusion.contact_sheet import Row, contact_sheet

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
_ACROSS = 8
"""Pictures a row of a sheet."""


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


def write_sheet(pictures: Tensor, captions: Sequence[str], file: Path) -> None:
    """A PNG of pictures, eight a row and twice their size, with their captions below.  (n, 3, size, size) uint8"""
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    starts = range(0, len(images), _ACROSS)
    rows = [Row(images[k : k + _ACROSS], captions=captions[k : k + _ACROSS]) for k in starts]
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, scale=2, paper="#e1e1e1").save(file)
