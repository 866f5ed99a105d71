"""What browsers get of the library, made once for all of them: selections, manifests, pictures."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reslora_sd.runs.run import Run

from .answers import Answers
from .library import Library, key_of
from .limits import Limits
from .manifest import manifest, stamp
from .pictures import decoded, source_of
from .selection import Asked, Selection, select
from .tabs import address

_MOST_ANSWERS = 200
_LOOK_EVERY = 0.5
"""Seconds for which a look at the folders counts, for all visitors together."""


class Visits:
    """Answers to what browsers ask about runs.

    Args:
        library: the runs.
        store: makes a PNG of a picture that was opened, and gives its path.
    """

    def __init__(self, library: Library, store: Callable[[Any], str]) -> None:
        self.library, self.store = library, store
        self._answers, self._files = Answers(_MOST_ANSWERS), Answers(50_000)
        self.limits = Limits()
        self._runs: dict[str, Path] = {}
        self._looked: tuple[float, str] = (-1.0, "")

    def state(self) -> str:
        """Differs once a file of a run has changed."""
        when, found = self._looked
        if not 0 <= time.monotonic() - when < _LOOK_EVERY:
            found = f"{hash(self.library.state()) & (2**64 - 1):016x}"
            self._looked = time.monotonic(), found
        return found

    def once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """An answer that is made again only when files have changed."""
        return self._answers.get((self.state(), *key), make)

    def select(self, asked: Asked | None, names: Sequence[str] | None = None) -> Selection:
        """What is shown of what was asked; the first two runs where no run of it is there.

        Args:
            names: the chosen runs, where none may be chosen.
        """
        asked = asked or Asked()

        def make() -> Selection:
            known = list(self.library.keys())
            wanted = {self.library.key(text) for text in (asked.runs if names is None else names)}
            kept = [key for key in known if key in wanted]
            if names is None:
                kept = kept or known[:2]
            runs = {key_of(run.path): run for run in self.library.get(kept).values()}
            return select(runs, replace(asked, a=self.library.key(asked.a), b=self.library.key(asked.b)))

        found: Selection = self.once(("select", asked, None if names is None else tuple(names)), make)
        return found

    def manifest(self, chosen: Selection) -> dict[str, Any]:
        """Steps and addresses of pictures of what is chosen."""
        found: dict[str, Any] = self.once(
            ("manifest", chosen), lambda: manifest(self.library.get(chosen.runs), chosen, self._key)
        )
        return found

    def packed(self, query: str) -> bytes:
        """The manifest of what an address asks for, as gzipped JSON."""
        asked = address.read(query).asked

        def make() -> bytes:
            return pack(self.manifest(self.select(asked, asked.runs)))

        found: bytes = self.limits.get("Compare", asked, lambda: self.once(("packed", asked), make))
        return found

    def picture(self, key: str, mark: str, file: str) -> str:
        """Path of a PNG with the pixels of a picture that a run lists.

        Raises:
            ValueError: there is none, or it can't be read, in words.
        """
        found: str = self._files.get((key, mark, file), lambda: self._open(key, mark, file))
        return found

    def ready(self, key: str, mark: str, file: str) -> str | None:
        """The same where somebody has asked for it."""
        found: str | None = self._files.ready((key, mark, file))
        return found

    def _open(self, key: str, mark: str, file: str) -> str:
        run = self._run(key)
        if run is None or file not in run.files:
            raise ValueError("There is no such picture (any more).")
        source = source_of(run.validation, file)
        if stamp(*source[1:]) != mark:
            raise ValueError("The picture has been written again. Reload the page.")
        return self.store(decoded(*source))

    def _run(self, key: str) -> Run | None:
        if key not in self._runs:
            self._runs = {self.library.token(path): path for path in self.library.names().values()}
        path = self._runs.get(key)
        return self.library.read(path) if path is not None and self.library.token(path) == key else None

    def _key(self, run: Run) -> str:
        key = self.library.token(run.path)
        self._runs[key] = run.path
        return key


def pack(value: object) -> bytes:
    """Gzipped JSON."""
    return gzip.compress(json.dumps(value, separators=(",", ":")).encode(), 6, mtime=0)
