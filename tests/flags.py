"""Tables of flags: how each is run, and what it changes; or the test elsewhere that says so."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

Seen = TypeVar("Seen")
Setup = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Row(Generic[Seen]):
    """A flag and its effect."""

    flag: str
    words: tuple[Any, ...]
    """The run that has the flag, over the table's defaults. Flags that don't touch each other share a run."""
    without: tuple[Any, ...]
    """A run that doesn't have it."""
    check: Callable[[Seen, Seen], None]
    """Takes both runs, and asserts what the flag changed."""
    more: dict[str, Any]
    """What both runs need beside their words."""
    changes_nothing: bool
    """Whether the flag is only accepted, so that the check holds for both runs."""

    def hold(self, run: Callable[..., Seen]) -> None:
        """The flag has its effect, and the check would notice if it hadn't: it fails on the run without the flag."""
        assert f"--{self.flag}" in self.words
        it, plain = run(self.words, **self.more), run(self.without, **self.more)
        self.check(it, plain)
        if not self.changes_nothing:
            with pytest.raises(AssertionError):
                self.check(plain, plain)


@dataclass(frozen=True)
class Table(Generic[Seen]):
    """Rows by flag, and for the other flags the test that asserts their effect: `FILE::TEST`."""

    rows: dict[str, Row[Seen]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> set[str]:
        """All that stand in it."""
        return {*self.rows, *self.elsewhere}

    def row(
        self, flag: str, *words: Any, without: tuple[Any, ...] = (), changes_nothing: bool = False, **more: Any
    ) -> Callable[[Callable[[Seen, Seen], None]], Callable[[Seen, Seen], None]]:
        """Enters the check that follows."""

        def enter(check: Callable[[Seen, Seen], None]) -> Callable[[Seen, Seen], None]:
            assert flag not in self.flags, f"--{flag} has a row already"
            self.rows[flag] = Row(flag, words, without, check, more, changes_nothing)
            return check

        return enter

    def see(self, **tests: str) -> None:
        """Enters flags whose effect another test asserts."""
        assert not tests.keys() & self.flags, f"{tests.keys() & self.flags} have rows already"
        self.elsewhere.update(tests)


def uses(test: str, flag: str, folder: Path) -> bool:
    """Whether the test `FILE::TEST` is there, and has the flag among its words.

    Raises:
        ValueError: it isn't there.
    """
    file, _, name = test.partition("::")
    tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return f"--{flag}" in {node.value for node in ast.walk(found) if isinstance(node, ast.Constant)}
