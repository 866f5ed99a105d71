"""What is known of a picture before the device is asked, and who of several processes prepares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

MOST_CACHED = 4 * 2**30
"""Bytes of latents, and of embeddings, that a process keeps in memory unasked: some 32,000 pictures of 512 pixels."""
IN_MEMORY = 2**28
"""Bytes of what is on disk that a process keeps in memory, too: of latents, and of embeddings."""


class Prepared(NamedTuple):
    """A picture as far as it is known without the device."""

    pixels: Tensor | None = None
    """(3, height, width)"""
    moments: Tensor | None = None
    """Mean and deviation of the VAE's posterior, (2 c, h, w), float32 on the CPU."""
    mask: Tensor | None = None
    """(1, h, w) in latents."""
    key: str | None = None
    """Where moments and mask are to be kept on disk, once they are made."""
    noted: Mapping[str, list[Any]] = {}
    """Contents of files that a worker read."""


class Share(NamedTuple):
    """Which process this is, of those that encode one data set together."""

    processes: int = 1
    rank: int = 0
    wait: Callable[[], None] = lambda: None
    """Until all have come so far."""
    workers: int = 0
    """Processes that decode pictures for this one."""
