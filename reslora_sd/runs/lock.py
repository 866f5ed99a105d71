"""One writer a folder: two trainings in one would mix their logs, pictures and checkpoints.

The operating system holds the lock (flock, or LockFileEx on Windows) and frees it when the process ends, however that
happens. So a killed training leaves none behind, and no clock matters.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from .atomic import write_json
from .failures import told_plainly
from .jsonl import read_object
from .names import LOCK_FILE, WRITER_FILE

_ATTEMPTS = 10
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
Given = ParamSpec("Given")
Result = TypeVar("Result")


class FolderInUseError(ValueError):
    """Another process writes into the folder."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock for the time. Makes the folder; takes it away again if it is empty in the end.

    Raises:
        FolderInUseError: another process holds the lock. Nothing was changed.
        ValueError: the folder can't be written.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = _acquire(folder)
    try:
        write_json(folder / WRITER_FILE, {"process": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (folder / WRITER_FILE).unlink(missing_ok=True)
        release(lock, folder / LOCK_FILE)
        for empty in made:
            with suppress(OSError):  # it holds a run, or another process has just begun to use it
                empty.rmdir()


def as_only_writer(
    output_dir: Callable[Given, str | os.PathLike[str]],
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """A decorator for a script's main function, which then runs as the folder's only writer.

    Of several processes that train together, the first one holds the lock for all.

    Args:
        output_dir: gives the folder, of the same arguments as the main function's.
    """

    def decorate(main: Callable[Given, Result]) -> Callable[Given, Result]:
        @wraps(main)
        def hold(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            if not _is_first_process():
                return main(*args, **kwargs)
            folder = Path(output_dir(*args, **kwargs))
            with one_writer(folder), told_plainly(folder):
                return main(*args, **kwargs)

        return hold

    return decorate


def _is_first_process() -> bool:
    """By what torchrun, accelerate and MPI tell their processes; the group itself isn't made yet."""
    rank, size = (next((os.environ[name] for name in names if name in os.environ), "") for names in (_RANKS, _SIZES))
    return size in ("", "1") or rank in ("", "0")


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK_FILE, thread_local=False)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            return lock
        except Timeout:
            raise FolderInUseError(
                f"--output_dir {folder}: another training writes there{_writer(folder)}. Wait until it ends, stop it, "
                "or choose another folder."
            ) from None
        except FileNotFoundError as error:  # another process, whose settings were wrong, took its empty folder away
            if attempt == _ATTEMPTS:
                raise ValueError(f"--output_dir {folder} can't be written: {error}. Choose another folder.") from error
        except OSError as error:
            raise ValueError(f"--output_dir {folder} can't be written: {error}. Choose another folder.") from error
    raise AssertionError("the last attempt returns or raises")


def release(lock: FileLock, path: Path) -> None:
    """Removes the lock's file, too. filelock doesn't take the lock of a file that has no name any more."""
    if sys.platform == "win32":  # an open file can't be removed there, neither ours nor another process's
        lock.release()
        with suppress(OSError):
            path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
        lock.release()


def _writer(folder: Path) -> str:
    if not (folder / WRITER_FILE).is_file():
        return ""
    writer = read_object(folder / WRITER_FILE, lambda _: None)
    return f" (process {writer['process']} on {writer['host']})" if writer.keys() >= {"process", "host"} else ""
