"""All runs as a list that can be searched and sorted. Pinned ones come first in every order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslora_sd.runs.paths import public_name
from reslora_sd.runs.reader import last_change

from .library import Library, key_of
from .wording import method_name

NEWEST = "newest first"


@dataclass(frozen=True)
class Item:
    """One line of the list."""

    key: str
    """`library.key_of` its folder."""
    name: str
    method: str
    state: str
    step: int
    steps: int | None
    loss: float | None
    """On held-out pictures, the latest; else of training."""
    model: str
    note: str
    pinned: bool
    changed: float
    """Seconds since the epoch."""


def _by_loss(item: Item) -> tuple[bool, float]:
    return item.loss is None, item.loss or 0.0


ORDERS: dict[str, Callable[[Item], object]] = {
    NEWEST: lambda item: -item.changed,
    "oldest first": lambda item: item.changed,
    "name": lambda item: item.name.casefold(),
    "method": lambda item: (item.method, item.name.casefold()),
    "lowest loss first": _by_loss,
    "most steps first": lambda item: -item.step,
}


def items(library: Library) -> list[Item]:
    """All runs of the library."""
    return [_item(library, name, path) for name, path in library.names().items()]


def _item(library: Library, name: str, path: Path) -> Item:
    run, kept = library.read(path), library.kept(path)
    held_out = [row["validation_loss"] for row in run.log if "validation_loss" in row]
    trained = [row["loss"] for row in run.log if "loss" in row]
    model = run.settings.get("base_model")
    model = public_name(model)[:80] if isinstance(model, str) else ""
    loss = next(iter([*held_out[-1:], *trained[-1:]]), None)
    return Item(
        key_of(path),
        name,
        run.method,
        run.state,
        run.last_step,
        run.steps,
        loss,
        model,
        kept.note,
        kept.pinned,
        last_change(path),
    )


def chosen_items(found: Sequence[Item], words: str, order: str) -> list[Item]:
    """Those that have all the words somewhere, in an order of `ORDERS`."""
    asked = words.casefold().split()

    def matches(item: Item) -> bool:
        text = f"{item.name} {item.method} {method_name(item.method)} {item.state} {item.model} {item.note}".casefold()
        return all(word in text for word in asked)

    key = ORDERS.get(order, ORDERS[NEWEST])
    ordered = sorted(filter(matches, found), key=key)  # type: ignore[arg-type]
    return sorted(ordered, key=lambda item: not item.pinned)
