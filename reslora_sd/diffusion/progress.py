"""What a user sees while nothing is trained: a bar for each stage, with its time when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stage(name: str, total: int = 1) -> Iterator[Any]:
    """A bar of `total` parts, to be updated; one of a single part is full at the end."""
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=name, mininterval=0.5) as bar:
        yield bar
        bar.update(total - bar.n)
