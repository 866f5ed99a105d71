"""Safetensors files that are either complete or not there, and whose damage is told in plain words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..runs.atomic import replacing


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes one safetensors file in one piece."""
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no safetensors file at all, or holds NaN or infinity.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}. Give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no complete safetensors file ({reason(error)}). Copy or export it again."
        ) from error
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise ValueError(
                f"{path} holds NaN or infinity, in {name}. It is damaged, or of a training that broke: use an earlier "
                "checkpoint, or train again with a lower rate."
            )
    return tensors, metadata


def reason(error: BaseException) -> str:
    """Another library's error on one line: its kind, and what it says first."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
