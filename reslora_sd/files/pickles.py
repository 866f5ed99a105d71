"""Parts of checkpoints that other libraries write with torch.save, checked so that nothing in them is executed."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .storage import reason

_ENDINGS = (".bin", ".pkl", ".pt", ".pth")
_NEVER_READ = ("training_args.bin",)
"""transformers writes them for people; no resume opens them."""
_SHARDS = ".metadata"
"""Of sharded checkpoints (FSDP): a pickle that torch.distributed executes."""

RANDOM_STATES = {
    "python": ("random_state", "python"),
    "numpy": ("numpy_random_seed", "numpy"),
    "torch": ("torch_manual_seed", "cpu"),
}
"""accelerate's and transformers' names of a process's random states."""


_DEEPSPEED = frozenset(
    {
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
)
"""Classes in DeepSpeed's optimizer states that only hold values: making one executes nothing."""


def load_pickled(path: Path) -> Any:
    """What torch.save wrote, if that is tensors and plain values alone; of DeepSpeed, its holders of values, too.

    Raises:
        ValueError: it is damaged, or would execute something.
    """
    from accelerate.utils import load  # allows numpy's arrays, which random states hold

    try:
        with torch.serialization.safe_globals(_deepspeed_classes(path)):
            return load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a pickle of a stranger can raise anything
        raise ValueError(
            f"{path} holds more than tensors and plain values, or is damaged; nothing in it was executed "
            f"({reason(error)}). Resume only from checkpoints that this package wrote."
        ) from error


def _deepspeed_classes(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Those that the file names. DeepSpeed is imported for them, and for nothing else."""
    if not zipfile.is_zipfile(path):
        return []
    places = [name.rpartition(".") for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
    return [
        getattr(import_module(module), name) for module, _, name in sorted(places) if f"{module}.{name}" in _DEEPSPEED
    ]


def check_pickles(checkpoint: Path) -> None:
    """Whether a checkpoint's files can be loaded without executing anything, random states included.

    Libraries that load them later may trust them (DeepSpeed), or pass over broken random states (accelerate).

    Raises:
        ValueError: a file would execute something, or holds no random states where it should.
    """
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in _NEVER_READ):
        if path.name == _SHARDS:
            raise ValueError(
                f"{path} is of a sharded checkpoint, which can't be loaded without executing what it holds. "
                "Train with full state dicts (FULL_STATE_DICT), or start anew with --overwrite_output_dir."
            )
        if path.suffix not in _ENDINGS:
            continue
        content = load_pickled(path)
        if path.name.startswith(("random_states_", "rng_state")):
            _check_random_states(path, content)


def _check_random_states(path: Path, states: Any) -> None:
    """Sets them where nobody draws from."""
    import numpy

    fresh: dict[str, Callable[[Any], object]] = {
        "python": random.Random().setstate,
        "numpy": numpy.random.RandomState().set_state,
        "torch": torch.Generator().set_state,
    }
    for kind, setter in fresh.items():
        key = next((key for key in RANDOM_STATES[kind] if isinstance(states, dict) and key in states), None)
        try:
            setter(states[key])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{path} holds no random state of {kind} ({type(error).__name__}: {str(error)[:80]}). It is damaged: "
                "resume from another checkpoint, or start anew with --overwrite_output_dir."
            ) from error
