"""Which files of a folder are data, by one rule for all layouts; what is passed over is counted and told."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from .pictures import picture_kinds, unreadable_kind
from .sources import numbered_name

logger = logging.getLogger("reslora_sd")

SYSTEM = frozenset("@eaDir @Recycle @Recently-Snapshot #recycle #snapshot $RECYCLE.BIN __MACOSX lost+found".split())
"""Folders that file servers and systems put beside pictures; thumbnails and deleted files are in them."""


class Survey:
    """The files of a folder and all below it. Links are followed, and each folder is read once.

    Folders and files whose names start with a dot, and folders of file servers and systems, are passed over.

    Args:
        root: the folder; its own name is free. Or a file, which is then the only one.

    Raises:
        ValueError: a folder can't be opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []
        self._notes: dict[str, tuple[str, int, Path]] = {}
        self._worth_a_warning = False
        folders, links, seen = [root], list[Path](), set[str]()
        if root.is_file():
            self.files, folders = [root], []
        while folders or links:  # folders before links: where both lead to one place, its own name counts
            folder = folders.pop() if folders else links.pop()
            real = os.path.realpath(folder)
            if real in seen:
                self.note("links to folders that are read already", [folder])
                continue
            seen.add(real)
            for entry in _entries(folder):
                self._sort_in(entry, folders, links)
        self.files.sort()
        self.numbered = self._numbered()
        """kohya's folders, such as `10_rex`: repeats and class; empty unless every picture (or tar) lies in one."""
        self.note("numbered folders, whose pictures are repeated so often", self.numbered)

    @property
    def pictures(self) -> list[Path]:
        """The pictures that can be opened, by name."""
        kinds = picture_kinds()
        return [file for file in self.files if file.suffix.lower() in kinds]

    @property
    def shards(self) -> list[Path]:
        """Tar files, by name."""
        return [file for file in self.files if file.suffix.lower() == ".tar"]

    def note(self, why: str, files: Iterable[Path], warn: bool = False, of: str = "") -> None:
        """Counts files that are passed over for a reason.

        Args:
            of: follows the count.
            warn: whether they look as if they were meant to be trained on.
        """
        for file in files:
            _, count, first = self._notes.get(why, (of, 0, file))
            self._notes[why] = (of, count + 1, first)
            self._worth_a_warning |= warn

    def note_unreadable(self) -> None:
        """Counts the pictures of kinds that can't be opened here."""
        for file in self.files:
            if remedy := unreadable_kind(file.suffix.lower()):
                self.note(f"pictures of a kind that can't be opened here ({remedy})", [file], warn=True)

    def tell(self, taken: str) -> None:
        """Logs the one line: what is taken, what is passed over and why."""
        found = self._notes.items()
        parts = [f"{why}: {count}{of}, such as {self.name(first)}" for why, (of, count, first) in found]
        notes = f" Left out or changed: {'; '.join(parts)}." if parts else ""
        level = logging.WARNING if self._worth_a_warning else logging.INFO
        logger.log(level, "Data in %s: %s taken.%s", self.root, taken, notes)

    def name(self, file: Path) -> str:
        """A file as seen from the folder."""
        return file.relative_to(self.root).as_posix()

    def repeats(self, file: Path) -> int:
        """How often a picture is to be met in an epoch."""
        return self._number(file)[0]

    def class_of(self, file: Path) -> str | None:
        """The class that its numbered folder names."""
        return self._number(file)[1]

    def _number(self, file: Path) -> tuple[int, str | None]:
        """Of the numbered folder that it lies in; a row of metadata may name a file of any other folder."""
        return self.numbered.get(self._below_root(file), (1, None)) if self.numbered else (1, None)

    def _below_root(self, file: Path) -> Path:
        return self.root / file.relative_to(self.root).parts[0]

    def _numbered(self) -> dict[Path, tuple[int, str]]:
        data = (self.pictures or self.shards) if self.root.is_dir() else []
        folders = {file.parent if file.parent == self.root else self._below_root(file) for file in data}
        below = folders - {self.root}
        found = {folder: number for folder in sorted(below) if (number := numbered_name(folder.name))}
        if len(found) == len(folders):
            return found
        self.note("numbered folders that repeat nothing, since not every picture lies in one", found, warn=True)
        return {}

    def _sort_in(self, entry: os.DirEntry[str], folders: list[Path], links: list[Path]) -> None:
        path = Path(entry.path)
        if entry.is_dir():
            if entry.name.startswith(".") or entry.name in SYSTEM:
                self.note("hidden or system folders", [path])
            else:
                (links if entry.is_symlink() else folders).append(path)
        elif entry.name.startswith("."):  # macOS leaves "._cat.jpg" about
            self.note("hidden files", [path])
        elif entry.is_file():
            self.files.append(path)
        elif entry.is_symlink():
            self.note("links that lead nowhere", [path], warn=True)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(
            f"The folder {folder} can't be read: {error.strerror}. Give yourself the right to read it, or move it out "
            "of the data."
        ) from error
