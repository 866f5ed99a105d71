"""The table of flags: how each is run, and what it changes; or the test elsewhere that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.diffusion.flags.seen import Seen

Check = Callable[[Seen, Seen], None]
Setup = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Row:
    """A flag and its effect."""

    words: tuple[Any, ...]
    """The run that has the flag, over `seen.DEFAULTS`. Flags that don't touch each other share a run."""
    without: tuple[Any, ...]
    """A run that doesn't have it."""
    check: Check
    """Takes both runs, and asserts what the flag changed. Given the run without the flag twice, it has to fail."""
    whole: bool
    """Whether the runs merge and export, too."""
    setup: Setup | None
    """What both runs need around them."""
    changes_nothing: bool
    """Whether the flag is only accepted, so that the check holds for both runs."""


TABLE: dict[str, Row | str] = {}
"""By flag. A text names the test that asserts the flag's effect: `FILE::TEST`."""


def row(
    flag: str,
    *words: Any,
    without: tuple[Any, ...] = (),
    whole: bool = False,
    setup: Setup | None = None,
    changes_nothing: bool = False,
) -> Callable[[Check], Check]:
    """Enters the check that follows."""

    def enter(check: Check) -> Check:
        assert flag not in TABLE, f"--{flag} has a row already"
        TABLE[flag] = Row(words, without, check, whole, setup, changes_nothing)
        return check

    return enter


def elsewhere(**tests: str) -> None:
    """Enters flags whose effect another test asserts."""
    for flag, test in tests.items():
        assert flag not in TABLE, f"--{flag} has a row already"
        TABLE[flag] = test
