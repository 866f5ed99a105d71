"""How every script ends: what is the user's to mend is told in one sentence, without a traceback."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from ..runs.failures import DIVERGED_STATUS, DivergedError

_AFTER_LAUNCH = (
    "\n(A traceback of accelerate after this line says no more than that; accelerate launch --quiet leaves it out.)"
)


def run_command(main: Callable[[], Any]) -> None:
    """Runs a script's main function; errors of input, data and disk end it with exit status 1 and one line.

    A training that diverged ends with `DIVERGED_STATUS`, Ctrl-C with 130, as shells expect. `accelerate launch` adds a
    traceback of its own to every exit status but 0; a second line says so.
    """
    try:
        main()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        launched = "ACCELERATE_DYNAMO_BACKEND" in os.environ and "LOCAL_RANK" not in os.environ
        said = f"Error: {error}{_AFTER_LAUNCH if launched else ''}"
        if not isinstance(error, DivergedError):
            sys.exit(said)
        print(said, file=sys.stderr)
        sys.exit(DIVERGED_STATUS)
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'Interrupted.'}", file=sys.stderr)
        sys.exit(130)


def quiet_libraries(*names: str) -> None:
    """Silences Hugging Face's libraries: their advice is about parts that we don't use, and their bars hide ours.

    Args:
        names: of the modules; left out, diffusers and transformers.
    """
    for name in names or ("diffusers", "transformers"):
        library = importlib.import_module(name)
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    # of the Hub's client: its tries to reach a Hub that isn't there; an argument of diffusers that it doesn't need
    importlib.import_module("huggingface_hub").utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks", category=UserWarning)


def first_words(error: BaseException) -> str:
    """The first line of another library's error, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
