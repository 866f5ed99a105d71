"""The runs that the page shows, by the names that it calls them; each is read again only when its files change."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from reslora_sd.runs.reader import find_runs, is_fresh, is_run, read_run, signature
from reslora_sd.runs.run import Run

from .keeping import Kept, discard, idle, read_kept, write_kept
from .wording import as_utf8, is_utf8, method_name, numbered


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
        """Folders by the name that is shown: that which somebody gave it, or its method's. Where several runs have the
        same, each has its folder's beside it. Pinned runs come first.
        """
        return _named(self._entries())

    def keys(self) -> dict[str, str]:
        """Names that are shown by what stands for the run in menus and addresses: it stays when names change."""
        return {key_of(path): name for name, path in self.names().items()}

    def key(self, text: str | None) -> str | None:
        """The key of a run by itself, else by the run's name, else by its name in older addresses; `None` where there
        is no such run."""
        return self.keys_of([text]).get(text or "")

    def keys_of(self, texts: Iterable[str | None]) -> dict[str, str]:
        """The keys of many, by their texts, from one look at the folders; what is no run's is left out."""
        known = _spelled(self._entries())
        return {text: key_of(known[text]) for text in texts if text in known}

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
            taken = names | {key_of(other): other for other in names.values()}  # an address may have either
            if renamed and taken.get(kept.title, path) != path:
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
            name: as in `key`.
            token: of the run that is meant. Another run can be in its folder by now, or have its name.

        Raises:
            ValueError: there is none of that name, or it is another run by now.
        """
        path = _spelled(self._entries()).get(name or "")
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
        """Runs by the name that is shown, in the order of all, of these keys or names; unknown ones are left out: a
        run can be deleted meanwhile."""
        known = self.names()
        keys = {key_of(path): path for path in known.values()}
        wanted = {keys.get(text) or known.get(text) for text in names}
        return {name: self.read(path) for name, path in known.items() if path in wanted}

    def state(self) -> tuple[object, ...]:
        """Equal while neither the list of runs nor a file of one has changed."""
        return tuple((name, signature(path)) for name, path in self.names().items())

    def read(self, path: Path) -> Run:
        """The run of a folder of `names`."""
        return self._entry(path)[0]

    def _entries(self) -> dict[Path, tuple[Run, Kept]]:
        """All runs, from one look at the folders, in their order."""
        found = [path for folder in self.folders if folder.is_dir() for path in find_runs(folder)]
        if self.more is not None and self.more.is_dir():
            found += [path for path in find_runs(self.more) if path != self.more]
        self.left_out = [as_utf8(path) for path in found if not is_utf8(path)]
        return {path: self._entry(path) for path in dict.fromkeys(filter(is_utf8, found))}

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


def key_of(path: Path) -> str:
    """What stands for a run's folder in menus and addresses: readable, and no other folder's."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name)[:40]
    return f"{plain}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _named(entries: Mapping[Path, tuple[Run, Kept]]) -> dict[str, Path]:
    """Folders by the names that are shown, pinned runs first."""
    own = {path: kept.title or method_name(run.method) or path.name for path, (run, kept) in entries.items()}
    ordered = sorted(entries, key=lambda path: not entries[path][1].pinned)
    return {name: path for path, name in _told_apart({path: own[path] for path in ordered}).items()}


def _spelled(entries: Mapping[Path, tuple[Run, Kept]]) -> dict[str, Path]:
    """Folders by all that stands for them: keys before names, for somebody chose these, and both before what older
    addresses have: the method's name in files, beside it the folder's where several runs had that method."""
    older: dict[str, Path] = {}
    for path in sorted(entries, key=lambda path: bool(entries[path][1].title)):  # these had another name
        name = entries[path][0].method or path.name
        for text in (name, f"{name} ({path.parent.name}/{path.name})", f"{name} ({path})"):
            older.setdefault(text, path)
    return older | _named(entries) | {key_of(path): path for path in entries}


def _told_apart(own: Mapping[Path, str]) -> dict[Path, str]:
    """Names of which no two are equal: with the folder's beside it, or that and the one above. Those that have the same
    still get numbers: exported files hold names, and the whole path concerns nobody there."""
    found = dict(own)
    kinds: list[Callable[[Path], str]] = [lambda path: path.name, lambda path: f"{path.parent.name}/{path.name}"]
    for kind in kinds:
        counts = Counter(found.values())
        found = {path: name if counts[name] == 1 else f"{own[path]}, {kind(path)}" for path, name in found.items()}
    return dict(zip(found, numbered(found.values()), strict=True))


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError:
        return []
