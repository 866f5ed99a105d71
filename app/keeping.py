"""What people keep about a run: a name, a note, a pin. And where runs go that nobody wants: a trash folder beside them.

    RUN/page.json                          name, note, pin
    FOLDER/.trash/20261126-134500-1a2b-RUN a run that was deleted from FOLDER

Nothing is removed for good here: who wants the room back removes the trash folder.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from reslora_sd.runs.atomic import write_json
from reslora_sd.runs.jsonl import read_object
from reslora_sd.runs.lock import FolderInUseError, one_writer
from reslora_sd.runs.names import LOCK_FILE, WRITER_FILE
from reslora_sd.runs.problems import Notes
from reslora_sd.runs.reader import is_run

from .training import PROCESS_FILE, find_process, one_at_a_time
from .wording import is_utf8

KEPT_FILE, TRASH_FOLDER = "page.json", ".trash"
LONGEST_TITLE, LONGEST_NOTE = 60, 2000
_TITLE = re.compile(r"\w[\w .+()-]*")
_TRASHED = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}-(.+)", re.DOTALL)
_MOST_TRASHED = 200
_changing = threading.Lock()
"""Held while a run's folder is written or moved, so that nothing is written where a run has just gone from."""


@dataclass(frozen=True)
class Kept:
    """What page.json says of a run.

    Raises:
        ValueError: the name or the note can't be kept.
    """

    title: str = ""
    """What the page calls the run; empty for its method's name."""
    note: str = ""
    pinned: bool = False
    """Whether it comes before the others."""

    def __post_init__(self) -> None:
        if self.title and (len(self.title) > LONGEST_TITLE or not _TITLE.fullmatch(self.title)):
            raise ValueError(
                f"The name is {self.title[:80]!r}. It may have {LONGEST_TITLE} letters, digits, spaces and . + - ( ) "
                "_, and begins with a letter or a digit."
            )
        if len(self.note) > LONGEST_NOTE:
            raise ValueError(f"The note has {len(self.note)} letters. It may have {LONGEST_NOTE}.")


def read_kept(run: Path) -> Kept:
    """What a run's page.json says; nothing of what is missing there, or of the wrong kind."""
    found = read_object(run / KEPT_FILE, Notes().add)
    title, note, pinned = found.get("title"), found.get("note"), found.get("pinned")
    title = title if isinstance(title, str) and len(title) <= LONGEST_TITLE and _TITLE.fullmatch(title) else ""
    note = note if isinstance(note, str) and len(note) <= LONGEST_NOTE else ""
    return Kept(title, note, pinned is True)


def write_kept(run: Path, kept: Kept) -> None:
    """Keeps it.

    Raises:
        ValueError: the folder is gone, or can't be written.
    """
    with _changing:
        if not run.is_dir():
            raise ValueError(f"{run} is gone, so nothing was kept about it.")
        try:
            write_json(run / KEPT_FILE, asdict(kept))
        except OSError as error:
            raise ValueError(f"{run / KEPT_FILE} can't be written: {error.strerror}.") from error


@contextmanager
def idle(run: Path) -> Iterator[None]:
    """Keeps trainings from beginning in the folder for the time.

    Raises:
        ValueError: one is under way, or the folder can't be written.
    """
    with one_at_a_time(run.parent) if (run / PROCESS_FILE).is_file() else nullcontext():
        if find_process(run) is not None:
            raise ValueError(f"{run.name} is being trained. Stop it first, and wait until it has ended.")
        try:
            with one_writer(run):
                yield
        except FolderInUseError:
            raise ValueError(f"{run.name} is being trained. Wait until it ends, or stop it.") from None


def discard(run: Path, needed: Iterable[Path] = ()) -> Path:
    """Moves a run into the trash folder beside it; gives its place there.

    Args:
        needed: folders that must stay where they are.

    Raises:
        ValueError: it is no run, holds more than one, is being trained, or can't be moved.
    """
    _check_one_run(run, needed)
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    place = run.parent / TRASH_FOLDER / f"{stamp}-{run.name}"
    with idle(run):
        _check_one_run(run, needed)  # nothing begins in it any more
        if sys.platform != "win32":
            _move(run, place)
            for name in (WRITER_FILE, LOCK_FILE):  # are ours
                (place / name).unlink(missing_ok=True)
    if sys.platform == "win32":  # a folder with an open file can't be moved there
        _move(run, place)
    return place


def _check_one_run(run: Path, needed: Iterable[Path]) -> None:
    """Whether a folder is one run, and nothing else would go with it."""
    if run.is_symlink():
        raise ValueError(f"{run} is a link to a folder elsewhere, so it stays. Remove the link yourself.")
    if not is_run(run):
        raise ValueError(f"{run} is no run: neither run.json nor a log nor pictures are in it. It stays where it is.")
    real = run.resolve()
    inner = (Path(place) for place, _, _ in os.walk(real) if Path(place) != real)
    others = (place for place in inner if is_run(place) or (place / PROCESS_FILE).is_file())
    more = next((place for place in needed if place.is_relative_to(real)), None) or next(others, None)
    if more is not None:
        raise ValueError(f"{run} holds more than one run, as {more} is in it. It stays where it is.")


def _move(run: Path, place: Path) -> None:
    try:
        with _changing:
            place.parent.mkdir(exist_ok=True)
            os.rename(run, place)
    except OSError as error:
        raise ValueError(f"{run} can't be moved to {place.parent}: {error.strerror}.") from error


def bring_back(place: Path) -> Path:
    """Moves a run out of the trash, to where it was; gives that place.

    Raises:
        ValueError: another run is there by now, or it can't be moved.
    """
    run = _origin(place)
    if run is None or place.parent.name != TRASH_FOLDER:
        raise ValueError(f"{place} holds no run that this page deleted.")
    if run.exists():
        raise ValueError(f"{run} is there again, so the run stays in {place}. Move one of them away.")
    try:
        os.rename(place, run)
    except OSError as error:
        raise ValueError(f"{place} can't be moved to {run}: {error.strerror}.") from error
    return run


def trashed(parents: Iterable[Path]) -> dict[str, Path]:
    """Deleted runs below folders, the latest first, by a text that tells them apart."""
    found: dict[str, Path] = {}
    for parent in dict.fromkeys(parents):
        try:
            with os.scandir(parent / TRASH_FOLDER) as entries:
                places = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # nothing was deleted there
        found |= {f"{parent.name}/{place.name}": place for place in places if _origin(place) is not None}
    found = {name: place for name, place in found.items() if is_utf8(name)}
    return dict(sorted(found.items(), key=lambda one: one[1].name, reverse=True)[:_MOST_TRASHED])


def _origin(place: Path) -> Path | None:
    """Where a run of the trash was."""
    match = _TRASHED.fullmatch(place.name)
    return place.parent.parent / match[1] if match else None
