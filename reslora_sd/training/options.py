"""Settings as frozen dataclasses whose fields are a command's flags: helpers to declare and to check them. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints


def option(default: Any, help: str, **more: Any) -> Any:
    """A field of a settings class: its default, and one line of help for `--help`."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help, **more})
    return dataclasses.field(default=default, metadata={"help": help, **more})


def switch(help: str) -> Any:
    """A field of type `bool | None` that is left out by default: `--name` sets it, `--no-name` clears it."""
    return option(None, help, nargs="?", const=True)


def check_choices(settings: Any) -> None:
    """Every field of a `Literal` type has to hold one of its values; so have the parts of a list of such a type.

    Raises:
        ValueError: it names the flag, the value that came, and the choices.
    """
    for name, choices in _choices_of(type(settings)).items():
        value = getattr(settings, name)
        for part in value if isinstance(value, list) else [value]:
            if part is not None and part not in choices:
                raise ValueError(f"--{name} is {part!r:.80}. It must be one of {', '.join(map(str, choices))}.")


def check_at_least(settings: Any, low: float, names: Iterable[str]) -> None:
    """Fields that are given must be `low` or more.

    Raises:
        ValueError: it names the flag and the value that came.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= low:
            raise ValueError(f"--{name} is {value}. It must be {low:g} or more.")


def check_above_zero(settings: Any, names: Iterable[str]) -> None:
    """Fields that are given must be above 0.

    Raises:
        ValueError: it names the flag and the value that came.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} is {value}. It must be above 0.")


def check_shares(settings: Any, names: Iterable[str]) -> None:
    """Fields that are given must be from 0 to 1.

    Raises:
        ValueError: it names the flag and the value that came.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name} is {value}. It must be from 0 to 1.")


def check_finite(settings: Any, but: Iterable[str] = ()) -> None:
    """Numbers must be neither NaN nor infinite, except for the fields named in `but`.

    Raises:
        ValueError: it names the flag and the value that came.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in but and isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{field.name} is {value}. It must be a finite number.")


def _choices_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """Allowed values of the fields that have a `Literal` in their type."""
    found = {name: _literals_in(hint) for name, hint in get_type_hints(kind).items()}
    return {name: choices for name, choices in found.items() if choices}


def _literals_in(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in _literals_in(part))
