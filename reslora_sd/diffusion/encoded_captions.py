"""Embeddings of captions: in memory, on disk, or made when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .conditioning import Words, bytes_of_words, encode_captions
from .encodings import Encodings
from .models import Parts

logger = logging.getLogger("reslora_sd")
MOST_CACHED = 4 * 2**30
"""Bytes of latents, and of embeddings, that a process keeps in memory unasked: some 32,000 pictures of 512 pixels."""
IN_MEMORY = 2**28
"""Bytes of what is on disk that a process keeps in memory, too: of latents, and of embeddings."""
BATCH = 64
"""Captions that are encoded at once."""


class Share(NamedTuple):
    """Which process this is, of those that encode one data set together."""

    processes: int = 1
    rank: int = 0
    wait: Callable[[], None] = lambda: None
    """Until all have come so far."""
    workers: int = 0
    """Processes that decode pictures for this one."""


class Captions:
    """The embeddings of captions: in memory up to `IN_MEMORY` bytes, beside `parts.encodings`; without it, all of them.

    Others than these captions, such as drawn wordings of them, are made each time and kept nowhere.

    Args:
        captions: those that are kept.
        at_first: whether they are encoded at once, instead of when they are asked for.
    """

    def __init__(self, parts: Parts, captions: Sequence[str], quiet: bool, share: Share, at_first: bool = True) -> None:
        self._parts = parts
        self._disk: Encodings | None = parts.encodings
        self._kept: dict[str, Words] = {}
        self._bytes = 0
        if self._disk is None:
            whole = len(captions) * bytes_of_words(parts)
            if whole <= MOST_CACHED:
                self._kept = encode_captions(parts, captions, quiet)
            elif not quiet:
                logger.info(
                    "Captions are encoded each time that they are met: all would take %.1f GiB in each process. "
                    "--cache_dir keeps them on disk.",
                    whole / 2**30,
                )
            return
        disk, self._on_disk = self._disk, frozenset(captions)
        mine = captions[share.rank :: share.processes] if at_first else []
        missing = [caption for caption in mine if not disk.has_words(caption)]
        for start in range(0, len(missing), BATCH):  # bit by bit, so that not all are in memory
            self._made(missing[start : start + BATCH], keep=False)
        share.wait()

    def __call__(self, captions: Sequence[str]) -> list[Words]:
        """Those of a batch."""
        found = {caption: self._kept.get(caption) or self._read(caption) for caption in dict.fromkeys(captions)}
        new = [caption for caption, words in found.items() if words is None]
        made = self._made(new, keep=True) if new else {}
        words = {caption: made[caption] if one is None else one for caption, one in found.items()}
        return [words[caption] for caption in captions]

    def _made(self, captions: Sequence[str], keep: bool) -> dict[str, Words]:
        made = encode_captions(self._parts, captions, quiet=True)
        for caption, words in made.items():
            if self._disk is not None and caption in self._on_disk:
                self._disk.put_words(caption, words)
                if keep:
                    self._keep(caption, words)
        return made

    def _read(self, caption: str) -> Words | None:
        if self._disk is None or caption not in self._on_disk:
            return None
        words = self._disk.words(caption)
        if words is not None:
            self._keep(caption, words)
        return words

    def _keep(self, caption: str, words: Words) -> None:
        size = sum(one.nbytes for one in words if one is not None)
        if self._bytes + size <= IN_MEMORY:
            self._kept[caption], self._bytes = words, self._bytes + size
