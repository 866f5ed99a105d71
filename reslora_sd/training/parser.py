"""One parser for all scripts: settings classes in, checked settings out; from flags, `--config FILE` or run.json."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser


class SettingsParser(HfArgumentParser):  # type: ignore[misc]
    """transformers' HfArgumentParser with whole flag names only, and `--config FILE`.

    Args:
        kinds: settings classes; each flag is a field of one of them.
        description: for `--help`.
    """

    def __init__(self, kinds: Sequence[type], description: str) -> None:
        super().__init__(list(kinds), description=description, allow_abbrev=False)
        for kind in kinds:
            for field in dataclasses.fields(kind):
                if field.metadata.get("nargs") == "*":  # HfArgumentParser's lists take one value or more
                    self._option_string_actions[f"--{field.name}"].nargs = "*"
            for name, hint in get_type_hints(kind).items():
                if hint == (bool | None):
                    self.add_argument(
                        f"--no_{name}",
                        f"--no-{name}",
                        action="store_false",
                        dest=name,
                        default=None,
                        help=f"The opposite of --{name}.",
                    )
        self.add_argument("--config", metavar="FILE", help="JSON or YAML with flags; the command line wins.")

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """Settings of the command line, over those of its `--config`; in the order of the classes.

        Raises:
            ValueError: a value can't be meant, or the config file can't be read or holds what is no flag.
            SystemExit: argparse's own, for flags that aren't there and values of the wrong kind.
        """
        return self.parse_known(argv, more=False)[0]

    def parse_known(self, argv: Sequence[str] | None = None, more: bool = True) -> tuple[tuple[Any, ...], list[str]]:
        """As `parse`; with `more`, words that are no flags of this parser are given back instead of refused."""
        words = list(sys.argv[1:] if argv is None else argv)
        path = _config_flag(words)
        if path is not None:
            self.set_defaults(**self._converted(read_config(Path(path)), path))
        *found, rest = self.parse_args_into_dataclasses(words, return_remaining_strings=True, look_for_args_file=False)
        if rest and not more:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return tuple(found[: len(self.dataclass_types)]), rest

    def from_values(self, values: Mapping[str, Any], source: str) -> tuple[Any, ...]:
        """Settings of a table of values, such as that of run.json.

        Args:
            source: what errors call the table.

        Raises:
            ValueError: as `parse`.
        """
        self.set_defaults(**self._converted(values, source))
        return self.parse([])

    def _converted(self, values: Mapping[str, Any], source: str) -> dict[str, Any]:
        actions = {action.dest: action for action in reversed(self._actions)}  # --name comes before --no-name
        found = {}
        for name, value in values.items():
            action = actions.get(name)
            if action is None or name in ("config", "help"):
                raise ValueError(f"{source} has {name!r}, which is no flag of this script. See --help.")
            if value is None:  # left out
                continue
            several = action.nargs in ("+", "*")
            if several:
                found[name] = [_convert(action, one, source) for one in (value if isinstance(value, list) else [value])]
            else:
                found[name] = _convert(action, value, source)
        return found


def flat(*groups: Any) -> dict[str, Any]:
    """The fields of all settings in one table, for run.json; `SettingsParser.from_values` reads it back."""
    return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}


def read_config(path: Path) -> dict[str, Any]:
    """The table of a config file. In YAML only `true` and `false` are truth values, so that `no` stays a word.

    Raises:
        ValueError: it isn't there, can't be read, or holds no table.
    """
    if not path.is_file():
        raise ValueError(f"--config names {path}, which isn't there.")
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before it
        values = json.loads(text) if kind == "JSON" else yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} can't be read as {kind}: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} holds no table of flags. Write, for example: method: reslora_is")
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.2's truth values: `no`, `off` and `y` are words, as `--mixed_precision no` needs."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _config_flag(words: Sequence[str]) -> str | None:
    """What --config names, read before the other flags."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path: str | None = early.parse_known_args(words)[0].config
    return path


def _convert(action: argparse.Action, value: Any, source: str) -> Any:
    """A value as its flag would have it; numbers go by their text, so that 2.5 is no whole number."""
    wanted = f"one of {', '.join(map(str, action.choices))}" if action.choices else _kind(action)
    is_switch = _kind(action) == "true or false"
    fits = isinstance(value, (bool, str)) if is_switch else not isinstance(value, (bool, list))
    try:
        if not fits:
            raise ValueError
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        found = action.type(text) if callable(action.type) else text
        if action.choices and found not in action.choices:
            raise ValueError
    except (ValueError, TypeError, KeyError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{source} has {action.dest}: {value!r}. It must be {wanted}.") from error
    return found


def _kind(action: argparse.Action) -> str:
    name = getattr(action.type, "__name__", "str")
    return {"int": "a whole number", "float": "a number", "string_to_bool": "true or false"}.get(name, "text")
