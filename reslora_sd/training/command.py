"""How every script ends: what is the user's to mend is told in one sentence, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def run_command(main: Callable[[], Any]) -> None:
    """Runs a script's main function; errors of input and data end it with exit status 1 and one line."""
    try:
        main()
    except (ValueError, FileNotFoundError, FileExistsError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
