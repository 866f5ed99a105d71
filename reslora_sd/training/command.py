"""How every script ends: what is the user's to mend is told in one sentence, without a traceback."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def run_command(main: Callable[[], Any]) -> None:
    """Runs a script's main function; errors of input, data and disk end it with exit status 1 and one line.

    So does Ctrl-C, with 130, as shells expect.
    """
    try:
        main()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
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
