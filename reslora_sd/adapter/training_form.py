"""The training form: a file that holds an adapter with its paths, to go on training. No LoRA loader accepts it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from ..config import ResLoRAConfig
from ..files.storage import load_tensors, save_tensors

TRAINING_FORM = "reslora_training_form"
"""The key of the file's metadata that says what it is; its value is the form's version."""
_LETTERS = "ABM"
_PREFIX = "residual_blocks."  # without "lora", so that diffusers' loader refuses the file instead of skipping it


def write_training_form(path: str | os.PathLike[str], state: Mapping[str, Tensor], config: ResLoRAConfig) -> None:
    """Writes the parameters of an adapter, by the names of `ResLoRAAdapter.state_dict`, with its settings."""
    tensors = {_PREFIX + _file_name(name): value for name, value in state.items()}
    save_tensors(path, tensors, {TRAINING_FORM: "1", "config": config.to_json()})


def read_training_form(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], ResLoRAConfig]:
    """Parameters and settings of a training form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or no training form.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get(TRAINING_FORM) != "1":
        raise ValueError(
            f"{path} is no ResLoRA training form (version 1). A merged LoRA is loaded by "
            "StableDiffusionPipeline.load_lora_weights; the training form is reslora_adapter.safetensors."
        )
    state = {_state_name(name): value for name, value in tensors.items()}
    try:
        config = ResLoRAConfig.from_json(metadata.get("config", ""))
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    for name, value in state.items():
        rank = value.shape[1 if name.endswith(".lora_B") else 0] if value.ndim == 2 else None
        fits = value.ndim == 2 and value.shape[0] == value.shape[1] if name.endswith(".lora_M") else rank == config.r
        if not fits or not value.is_floating_point():
            raise ValueError(
                f"{path} is damaged: its settings say rank {config.r}, but {name} is {value.dtype} of shape "
                f"{tuple(value.shape)}. Copy it again, or use another checkpoint."
            )
    if not state:
        raise ValueError(f"{path} is damaged: it holds no block. Copy it again, or use another checkpoint.")
    return state, config


def load_adapter_state(path: str | os.PathLike[str], config: ResLoRAConfig) -> dict[str, Tensor]:
    """Parameters of a training form that was made with the same settings, for `ResLoRAAdapter.load_state_dict`.

    Raises:
        FileNotFoundError, ValueError: as `read_training_form`; also if the settings differ.
    """
    state, stored = read_training_form(path)
    if stored != config:
        before, now = stored.to_dict(), config.to_dict()
        changed = ", ".join(f"{key} {before[key]!r} -> {now[key]!r}" for key in now if before[key] != now[key])
        raise ValueError(f"{path} was trained with other settings ({changed}). Resume with the same settings.")
    return state


def _file_name(name: str) -> str:
    for letter in _LETTERS:
        name = name.replace(f".lora_{letter}", f".{letter}")
    return name


def _state_name(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    return f"{name[:-2]}.lora_{name[-1]}" if name[-2:-1] == "." and name[-1] in _LETTERS else name
