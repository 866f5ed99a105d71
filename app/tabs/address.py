"""What is shown stands in the page's address, so that back, reload and a link lead to it again."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from ..selection import Asked

_LONGEST, _MOST_FIELDS = 64_000, 2000
"""Letters, about what the server takes of a request; a page may have hundreds of ticked runs."""
_DIGITS = 16
"""Seeds go up to 2 ** 53."""


@dataclass(frozen=True)
class Place:
    """What an address asks for; `None` and nothing where it doesn't say."""

    asked: Asked = field(default_factory=Asked)
    """What is chosen above the pictures."""
    step: int | None = None
    tab: str | None = None


def write(runs: Sequence[str], a: str | None, b: str | None, prompt: str | None, seed: int | None, variant: str) -> str:
    """What is chosen, for the address bar; a script of the page adds the step and the tab."""
    pairs = [*(("run", run) for run in runs), *(("a", a), ("b", b), ("prompt", prompt), ("seed", seed))]
    return urlencode([(name, value) for name, value in [*pairs, ("pictures", variant)] if value is not None])


def element(address: str, state: str) -> str:
    """Tells the script what is chosen.

    Args:
        state: differs once a file of a run has changed.
    """
    return f'<i data-address="{html.escape(address, quote=True)}" data-state="{html.escape(state, quote=True)}"></i>'


def read(search: str | None) -> Place:
    """What comes after the question mark; whatever isn't as we write it counts as not said."""
    try:
        found = parse_qs(
            (search or "")[:_LONGEST].removeprefix("?"), keep_blank_values=True, max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        return Place()

    def text(name: str) -> str | None:
        return found[name][0] or None if name in found else None

    def number(name: str) -> int | None:
        said = text(name) or ""
        return int(said) if said.isascii() and said.isdigit() and len(said) <= _DIGITS else None

    asked = Asked(
        tuple(run for run in found.get("run", ()) if run),
        text("a"),
        text("b"),
        found["prompt"][0] if "prompt" in found else None,  # an empty one is a prompt as well
        number("seed"),
        text("pictures"),
    )
    return Place(asked, number("step"), text("tab"))
