"""What goes wrong with a run folder while a training writes to it, told in one sentence: full, removed, interrupted."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .checkpoints import list_checkpoints
from .contents import remove_temporary
from .names import RUN_FILE

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FULL_WORDS = ("No space left on device", "os error 28", "inline_container.cc", "unexpected pos", "Disk quota exceeded")
"""Of safetensors, of torch's zip files, and of libraries that hand on the system's words."""
_LEAST_MB = 20


DIVERGED_STATUS = 3
"""Exit status of a training that diverged, so that a sweep can go on without it."""


class NoSpaceError(RuntimeError):
    """The disk, or the user's share of it, is full."""


class DivergedError(RuntimeError):
    """A loss became NaN or infinite."""


@contextmanager
def told_plainly(folder: Path) -> Iterator[None]:
    """Says which folder is full and how to go on, and where an interrupted training can be continued.

    Raises:
        NoSpaceError: instead of the many errors for a full disk. Unfinished files are removed, as they take space.
        KeyboardInterrupt: the same, with a sentence.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted. {_how_to_go_on(folder)}") from None
    except Exception as error:
        if not is_full(error):
            raise
        needed = _megabytes_to_free(folder)
        with suppress(OSError):
            remove_temporary(folder)
        raise NoSpaceError(f"No space left in {folder}: free {needed} MB there. {_how_to_go_on(folder)}") from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        said = str(error)
        if any(words in said for words in _FULL_WORDS) and "PytorchStreamReader" not in said:  # a damaged file
            return True
        error = error.__cause__ or error.__context__
    return False


def check_there(folder: Path) -> None:
    """Whether a run that was begun is still there.

    Raises:
        FileNotFoundError: it isn't; somebody removed or moved it.
    """
    if not (folder / RUN_FILE).is_file():
        raise FileNotFoundError(
            f"The run folder {folder} was removed or moved while the training wrote to it ({RUN_FILE} is gone). "
            "Put it back and resume, or start anew."
        )


def _how_to_go_on(folder: Path) -> str:
    there = list_checkpoints(folder)
    if there:
        return f"Resume from {there[-1].name}: repeat the command with --resume_from_checkpoint latest."
    return "There is no checkpoint yet: start the same command again, with --overwrite_output_dir."


def _megabytes_to_free(folder: Path) -> int:
    """Room for two more of the largest checkpoint, whole or not, less what is free."""
    sizes = [
        sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        for place in (*folder.glob("checkpoint-*"), *folder.glob(".checkpoint-*"))
    ]
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return max(_LEAST_MB, math.ceil((2 * max(sizes, default=0) - free) / 1e6))
