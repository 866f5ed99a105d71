"""What is made from numbers, made by worker processes ahead of where it is used."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Made = TypeVar("Made")
logger = logging.getLogger("reslora_sd")
_EACH = 2
"""How many are ready or being made for each worker."""


def in_order(make: Callable[[int], Made], places: Sequence[int], workers: int) -> Iterator[Made]:
    """`make(place)` for each place, in their order; each is made by a process that is ahead, or here without workers.

    Workers are copies of this process as it is now: they may read, and must not touch the device.

    Raises:
        ValueError, FileNotFoundError: what `make` raised, in its place.
    """
    if not workers or not places:
        yield from map(make, places)
        return
    loader: DataLoader[Any] = DataLoader(
        _Made(make),
        batch_size=None,
        sampler=places,
        num_workers=min(workers, len(places)),
        collate_fn=_as_it_is,
        prefetch_factor=_EACH,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else the workers' seed is one of the draws that dropout comes from
    )
    for found in loader:
        if isinstance(found, Exception):
            raise found
        yield _unpacked(*found)


def workers_here(asked: int) -> int:
    """How many workers there can be: none where a system can't copy a process, or not safely (macOS), which is told."""
    if asked and ("fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin"):
        logger.warning("--dataloader_num_workers needs Linux, which copies processes. Pictures are read in the loop.")
        return 0
    return asked


class _Made(Dataset[Any], Generic[Made]):
    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make

    def __getitem__(self, place: int) -> Any:
        try:
            return _packed(self._make(place))
        except (ValueError, OSError) as error:  # as it is, and not wrapped in a traceback of the worker's
            return type(error)(*error.args)


class _Place(NamedTuple):
    """Stands for a tensor."""

    kind: tuple[Any, ...]
    number: int


def _packed(made: Any) -> tuple[Any, dict[tuple[Any, ...], Tensor]]:
    """The same with its tensors joined by their kind: each that comes from a worker costs this process an open file."""
    found: dict[tuple[Any, ...], list[Tensor]] = {}
    return _placed(made, found), {kind: torch.stack(tensors) for kind, tensors in found.items()}


def _placed(value: Any, found: dict[tuple[Any, ...], list[Tensor]]) -> Any:
    if not isinstance(value, Tensor):
        return _within(value, lambda one: _placed(one, found))
    kind = (str(value.dtype), *value.shape)
    found.setdefault(kind, []).append(value)
    return _Place(kind, len(found[kind]) - 1)


def _unpacked(made: Any, tensors: Mapping[tuple[Any, ...], Tensor]) -> Any:
    """No function in here holds itself: that would keep the files open until garbage is collected."""
    if isinstance(made, _Place):
        return tensors[made.kind][made.number]
    return _within(made, lambda one: _unpacked(one, tensors))


def _within(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same list or tuple of changed values."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, (list, tuple)) else value


def _as_it_is(found: Any) -> Any:
    return found
