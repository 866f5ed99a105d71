"""The runs that the page shows, by the names that it calls them; each is read again only when its files change."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from reslora_sd.runs.reader import find_runs, is_fresh, is_run, read_run, signature
from reslora_sd.runs.run import Run

from .keeping import Kept, discard, idle, read_kept, write_kept
from .wording import as_utf8, is_utf8


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
        self._read: dict[Path, tuple[object, Run, Kept]] = {}
        self.left_out: list[str] = []
        """Folders of runs that `names` left out, in words."""

    def names(self) -> dict[str, Path]:
        """Folders by name: that which somebody gave it, or the method's for its first run, with the folders' beside it
        for later ones. Pinned runs come first.

        A name stays the same when other runs come, so that what is chosen stays chosen.
        """
        found = [path for folder in self.folders if folder.is_dir() for path in find_runs(folder)]
        if self.more is not None and self.more.is_dir():
            found += [path for path in find_runs(self.more) if path != self.more]
        names: dict[str, Path] = {}
        pinned: set[Path] = set()
        self.left_out = [as_utf8(path) for path in found if not is_utf8(path)]
        for path in dict.fromkeys(filter(is_utf8, found)):
            run, kept = self._entry(path)
            own = kept.title or run.method or path.name
            whole = f"{own} ({path})"
            numbered = (f"{whole} {number}" for number in itertools.count(2))  # a file may have any method's name
            possible = itertools.chain((own, f"{own} ({path.parent.name}/{path.name})", whole), numbered)
            names[next(name for name in possible if name not in names)] = path
            pinned |= {path} if kept.pinned else set()
        return dict(sorted(names.items(), key=lambda one: one[1] not in pinned))

    def kept(self, path: Path) -> Kept:
        """What somebody keeps about a run of `names`."""
        return self._entry(path)[1]

    def keep(self, name: str | None, kept: Kept, token: str | None = None) -> str:
        """Keeps it about a run; gives the run's name from now on.

        Args:
            token: as in `find`.

        Raises:
            ValueError: there is no such run, or its new name is another's, or it gets one while it is being trained.
        """
        names = self.names()
        path = self.find(name, token)
        renamed = kept.title != self.kept(path).title
        with idle(path) if renamed else nullcontext():
            if renamed and kept.title in names and names[kept.title] != path:
                raise ValueError(f"Another run is called {kept.title}. Choose another name.")
            write_kept(path, kept)
        return next((name for name, other in self.names().items() if other == path), kept.title or path.name)

    def discard(self, name: str | None, token: str | None = None) -> Path:
        """Moves a run into the trash folder beside it; gives its place there.

        Args:
            token: as in `find`.

        Raises:
            ValueError: there is no such run, or it can't be moved; no folder of the library's own is.
        """
        path = self.find(name, token)
        own = [folder for folder in self.folders if folder != path]
        return discard(path, [*own, self.more] if self.more is not None else own)

    def find(self, name: str | None, token: str | None = None) -> Path:
        """The folder of a run.

        Args:
            token: of the run that is meant. A name goes to another run when its run is deleted or renamed.

        Raises:
            ValueError: there is none of that name, or it is another run by now.
        """
        path = self.names().get(name or "")
        if path is None:
            raise ValueError(f"There is no run {name!r:.80}. Choose one of the list." if name else "Choose a run.")
        if token is not None and token != self.token(path):
            raise ValueError(f"{name} is another run by now. Look at its card, and try again.")
        return path

    def token(self, path: Path) -> str:
        """Tells a run from those that have its name or its folder later; empty where there is no folder."""
        try:
            found = path.stat()
        except OSError:
            return ""
        return hashlib.sha256(f"{path} {found.st_dev} {found.st_ino}".encode()).hexdigest()[:24]

    def parents(self) -> list[Path]:
        """Folders that runs are in, or were."""
        roots = [*self.folders, *([self.more] if self.more else [])]
        inner = [path for root in roots if root.is_dir() and not is_run(root) for path in (root, *_folders_in(root))]
        named = [folder.parent for folder in self.folders if is_run(folder) or not folder.is_dir()]
        return list(dict.fromkeys([*named, *inner]))

    def get(self, names: Iterable[str]) -> dict[str, Run]:
        """Runs of these names, in the order of all; unknown names are left out: a run can be deleted meanwhile."""
        wanted = set(names)
        return {name: self.read(path) for name, path in self.names().items() if name in wanted}

    def state(self) -> tuple[object, ...]:
        """Equal while neither the list of runs nor a file of one has changed."""
        return tuple((name, signature(path)) for name, path in self.names().items())

    def read(self, path: Path) -> Run:
        """The run of a folder of `names`."""
        return self._entry(path)[0]

    def _entry(self, path: Path) -> tuple[Run, Kept]:
        now = signature(path)
        with self._lock:
            before = self._read.get(path)
        # a run that was being written and isn't any more has the same files
        if before is None or before[0] != now or (before[1].state == "being written" and not is_fresh(path)):
            before = (now, read_run(path), read_kept(path))
            with self._lock:
                self._read[path] = before
        return before[1], before[2]


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError:
        return []
