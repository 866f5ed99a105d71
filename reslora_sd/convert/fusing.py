"""A LoRA added to a whole pipeline's own weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..config import Precision
from ..files.rounding import DTYPES
from ..files.storage import reason
from ..merging.plain_lora import PlainLoRA
from .outputs import new_folder


def fuse(
    plain: PlainLoRA,
    base: str,
    place: Path,
    precision: Precision,
    model_config: str | None = None,
    prediction_type: str | None = None,
) -> float:
    """Writes the pipeline `base` with the LoRA in its U-Net and text encoders; gives the largest rounding error.

    Args:
        base: a folder, a Hub name or a single-file checkpoint.
        model_config: as in `load_parts`.
        prediction_type: that a single file's sampler gets, where the file doesn't say it.

    Raises:
        ValueError: the pipeline can't be read, the LoRA belongs to another one, or the sum is too large for the
            precision. Nothing is written then.
    """
    pipeline = _load(base, precision, model_config, prediction_type)
    parts = plain.by_component()
    for name, part in parts.items():
        model = getattr(pipeline, name, None)
        if model is None:
            raise ValueError(f"{base} has no {name}, which this LoRA is for. Name the pipeline that it was made for.")
        try:
            part.linears_of(model)
        except ValueError as error:
            raise ValueError(f"The LoRA doesn't fit the {name} of {base}: {error}") from error
    rounding = max((part.fuse_into(getattr(pipeline, name)) for name, part in parts.items()), default=0.0)
    if not math.isfinite(rounding):
        raise ValueError(f"A weight with the LoRA added is too large for {precision}. Choose bf16 or float32.")
    with new_folder(place) as folder:
        pipeline.save_pretrained(folder)
    return rounding


def _load(base: str, precision: Precision, model_config: str | None, prediction_type: str | None) -> Any:
    from diffusers import DiffusionPipeline

    from ..diffusion.models import load_parts
    from ..diffusion.single_file import is_single_file

    dtype = DTYPES[precision]
    if is_single_file(base):
        parts = load_parts(base, prediction_type=prediction_type, model_config=model_config)
        return parts.pipeline().to(dtype)
    if model_config or prediction_type:
        raise ValueError(
            f"--model_config and --prediction_type are for a model in one file, and {base} is none. Leave them out."
        )
    try:
        return DiffusionPipeline.from_pretrained(base, dtype=dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Cannot read the pipeline {base!r} ({reason(error)}). --fuse takes a folder that save_pretrained of "
            "diffusers wrote, a single .safetensors checkpoint, or a name on the Hub."
        ) from error
