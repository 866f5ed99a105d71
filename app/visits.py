"""What browsers get of the library, made once for all of them: selections, manifests, pictures."""

from __future__ import annotations

import gzip
import json
import threading
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
        self.limits, self._looks = Limits(), Limits()
        self._looked: tuple[float, str] = (-1.0, "")
        self._looking = threading.Lock()

    def state(self) -> str:
        """Differs once a file of a run has changed. While somebody looks, others get what was found before.

        Raises:
            TooSlowError: the first look, which reads all runs, isn't done in time.
        """
        when, found = self._looked
        if found and (self._looking.locked() or 0 <= time.monotonic() - when < _LOOK_EVERY):
            return found
        seen: str = self._looks.get("The list of runs", "", self._look)
        return seen

    def _look(self) -> str:
        with self._looking:
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
            texts = asked.runs if names is None else names
            by_text = self.library.keys_of([*texts, asked.a, asked.b])
            wanted = {by_text[text] for text in texts if text in by_text}
            kept = [key for key in known if key in wanted]
            if names is None:
                kept = kept or known[:2]
            runs = {key_of(run.path): run for run in self.library.get(kept).values()}
            return select(runs, replace(asked, a=by_text.get(asked.a or ""), b=by_text.get(asked.b or "")))

        found: Selection = self.once(("select", asked, None if names is None else tuple(names)), make)
        return found

    def manifest(self, chosen: Selection) -> dict[str, Any]:
        """Steps and addresses of pictures of what is chosen."""
        found: dict[str, Any] = self.once(
            ("manifest", chosen), lambda: manifest(self.library.get(chosen.runs), chosen, self.library.token)
        )
        return found

    def packed(self, query: str) -> bytes:
        """The manifest of what an address asks for, as gzipped JSON."""
        asked = address.read(query).asked
        key, state = ("packed", asked), self.state()

        def make() -> bytes:
            return pack(self.manifest(self.select(asked, asked.runs)))

        found: bytes = self._answers.ready((state, *key)) or self.limits.get(
            "Compare", asked, lambda: self.once(key, make), state
        )
        return found

    def picture(self, key: str, mark: str, file: str) -> tuple[bytes, bool]:
        """A PNG with the pixels of a picture that a run lists, and whether it has this mark: it can have been written
        again since.

        Raises:
            ValueError: there is none, or it can't be read, in words.
        """
        run = self._run(key)
        if run is None or file not in run.files:
            raise ValueError("There is no such picture (any more).")
        source = source_of(run.validation, file)
        return self._stored(source), stamp(*source[1:]) == mark

    def _stored(self, source: tuple[Path, int, int]) -> bytes:
        """The bytes of its PNG; it is made again where somebody has removed it."""
        for _ in range(2):
            try:
                path = self._files.get(source, lambda: self.store(decoded(*source)))
                return Path(path).read_bytes()
            except FileNotFoundError:
                self._files.forget(source)
        raise ValueError(f"{source[0].name!r} is removed from the page's own folder as soon as it is there.")

    def _run(self, key: str) -> Run | None:
        paths = self.once(("tokens",), lambda: {self.library.token(one): one for one in self.library.names().values()})
        path = paths.get(key)  # its folder can have gone, or be another's, since the last look
        return self.library.read(path) if path is not None and self.library.token(path) == key else None


def pack(value: object) -> bytes:
    """Gzipped JSON."""
    return gzip.compress(json.dumps(value, separators=(",", ":")).encode(), 6, mtime=0)
