"""Files that are made for one look or one download; the oldest go when all have too many bytes together."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 1_000_000_000
"""Of all that is kept for all browsers."""


class Passing:
    """Files below a folder, each in a folder of its own whose name says nothing.

    Gradio's own `delete_cache` goes by age alone: it would take pictures that are still shown, and uploads that wait.
    """

    def __init__(self, folder: Path, most: int = MOST_BYTES) -> None:
        self.folder, self.most = folder, most
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, name: str) -> Path:
        """Where to write a file, in a folder that is there; `keep` it then."""
        file = self.folder / secrets.token_hex(12) / name
        file.parent.mkdir(parents=True)
        return file

    def keep(self, file: Path) -> str:
        """Counts a file that was written, or is asked for again; gives its path as text."""
        with self._lock:
            self._files[file] = file.stat().st_size
            self._files.move_to_end(file)
            while len(self._files) > 1 and sum(self._files.values()) > self.most:
                oldest, _ = self._files.popitem(last=False)
                oldest.unlink(missing_ok=True)
                with suppress(OSError):  # another file is in it
                    oldest.parent.rmdir()
        return str(file)
