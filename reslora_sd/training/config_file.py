"""Config files in JSON, TOML or YAML, and what their values mean for a field of a settings class. No torch."""

from __future__ import annotations

import json
import tomllib
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from ..files.texts import read_utf8


def read_config(path: Path) -> dict[str, Any]:
    """The table of a file of flags, as `read_table`."""
    return read_table(path, "--config", "no table of flags", "Write, for example: method: reslora_is")


def read_table(path: Path, flag: str, lacks: str, remedy: str) -> dict[str, Any]:
    """The table of a JSON, TOML or YAML file. In YAML, `no` stays the word that was written, except for a switch.

    Args:
        flag: what names the file.
        lacks: what a file without a table holds.
        remedy: what to write into one.

    Raises:
        ValueError: it isn't there, can't be read, or holds no table, or has a name twice.
    """
    if not path.is_file():
        raise ValueError(f"{flag} names {path}, which isn't there.")
    kind = {".json": "JSON", ".toml": "TOML"}.get(path.suffix.lower(), "YAML")
    try:
        values = _parsed(read_utf8(path, "it"), kind)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML's are of several lines
        raise ValueError(f"{path} can't be read as {kind}: {reason}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} holds {lacks}. {remedy}")
    return values


def _parsed(text: str, kind: str) -> Any:
    if kind == "JSON":
        return json.loads(text, object_pairs_hook=_table)
    return tomllib.loads(text) if kind == "TOML" else yaml.load(text, Loader=_Loader)


def convert(hint: Any, value: Any) -> Any:
    """A value of a config file as a field's type has it: 1 for a float is 1.0, "true" for a switch is True.

    Args:
        hint: the field's type, resolved.

    Raises:
        ValueError: it is invalid: 2.5 for a whole number, a list for one text.
    """
    if _is_union(hint):
        return _convert_to_one_of(get_args(hint), value)
    if get_origin(hint) is list:
        (one,) = get_args(hint)
        return [convert(one, part) for part in (value if isinstance(value, list) else [value])]
    if get_origin(hint) is Literal:
        found = [choice for choice in get_args(hint) if type(choice) is type(value) and choice == value]
        found += [choice for choice in get_args(hint) if isinstance(value, str) and str(choice) == value]
        if found:
            return found[0]
    elif isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value).value  # a ValueError of its own
    elif hint is bool:
        return _switch(value)
    elif hint in (int, float) and type(value) in {int: (int, str), float: (int, float, str)}[hint]:
        try:
            return hint(value)
        except OverflowError as error:  # a whole number beyond what a float can be
            raise ValueError from error
    elif hint is str and type(value) in (int, float, str, _Word):
        return str(value)
    elif (get_origin(hint) or hint) is dict and isinstance(value, dict):
        return value
    raise ValueError


def wanted(hint: Any) -> str:
    """What errors call the values of a type."""
    if _is_union(hint):
        parts = [wanted(part) for part in get_args(hint) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if get_origin(hint) is list:
        return f"a list of {wanted(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(str(one.value) for one in hint)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
    return names.get(get_origin(hint) or hint, "text")


def to_words(values: Mapping[str, Any]) -> list[str]:
    """The flags of a table as if they were typed, for another script; null is left out."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, (bool, dict)):
            words.append(f"--{name}={json.dumps(value)}")
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


class _Word(str):
    """`yes`, `no`, `on` or `off`, without quotes in YAML: a word for most flags, and true or false for a switch."""


class _Loader(yaml.SafeLoader):
    """YAML in which only `true` and `false` are truth values everywhere, as `mixed_precision: no` needs."""


def _table(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Both libraries would take the last of two values without a word."""
    table: dict[Any, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"it has {name!r} twice. Leave one.")
        table[name] = value
    return table


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    _table((name.value, None) for name, _ in node.value if isinstance(name, yaml.ScalarNode) and name.value != "<<")
    return loader.construct_mapping(node, deep=True)


def _truth(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool | str:
    return {"true": True, "false": False}.get(node.value.lower(), _Word(node.value))


_Loader.add_constructor("tag:yaml.org,2002:bool", _truth)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _convert_to_one_of(hints: tuple[Any, ...], value: Any) -> Any:
    """The first type that the value has already, else the first that it can be converted to."""
    for exact in (True, False):
        for hint in hints:
            try:
                found = convert(hint, value)
            except (ValueError, TypeError):
                continue
            if not exact or type(found) is type(value):
                return found
    raise ValueError


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False}
    if isinstance(value, _Word):
        words |= {"yes": True, "on": True, "no": False, "off": False}
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError
    return words[value.lower()]
