"""The runs that the page shows, by the names that it calls them; each is read again only when its files change."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from reslora_sd.runs.reader import find_runs, is_fresh, read_run, signature
from reslora_sd.runs.run import Run


class Library:
    """Runs below the folders that were named at the start, and no others.

    Args:
        folders: run folders, or folders of them.
        more: a folder whose runs, when there are any, come after: that of trainings started on the page.
    """

    def __init__(self, folders: Sequence[Path], more: Path | None = None) -> None:
        self.folders = [folder.resolve() for folder in folders]
        self.more = more.resolve() if more else None
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[object, Run]] = {}

    def names(self) -> dict[str, Path]:
        """Folders by name: the method's for its first run, with the folders' beside it for later ones.

        A name stays the same when other runs come, so that what is chosen stays chosen.
        """
        found = [path for folder in self.folders for path in find_runs(folder)]
        if self.more is not None and self.more.is_dir():
            found += [path for path in find_runs(self.more) if path != self.more]
        names: dict[str, Path] = {}
        for path in dict.fromkeys(found):
            method = self._run(path).method or path.name
            whole = f"{method} ({path})"
            numbered = (f"{whole} {number}" for number in itertools.count(2))  # a file may have any method's name
            possible = itertools.chain((method, f"{method} ({path.parent.name}/{path.name})", whole), numbered)
            names[next(name for name in possible if name not in names)] = path
        return names

    def get(self, names: Iterable[str]) -> dict[str, Run]:
        """Runs of these names, in the order of all; unknown names are left out: a run can be deleted meanwhile."""
        wanted = set(names)
        return {name: self._run(path) for name, path in self.names().items() if name in wanted}

    def state(self) -> tuple[object, ...]:
        """Equal while neither the list of runs nor a file of one has changed."""
        return tuple((name, signature(path)) for name, path in self.names().items())

    def _run(self, path: Path) -> Run:
        now = signature(path)
        with self._lock:
            before = self._read.get(path)
        # a run that was being written and isn't any more has the same files
        if before is None or before[0] != now or (before[1].state == "being written" and not is_fresh(path)):
            before = (now, read_run(path))
            with self._lock:
                self._read[path] = before
        return before[1]
