"""One parser for all scripts: settings classes in, checked settings out; from flags, `--config FILE` or run.json."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from .config_file import convert, read_config, to_words, wanted


class SettingsParser(HfArgumentParser):  # type: ignore[misc]
    """transformers' HfArgumentParser with whole flag names only, and `--config FILE`.

    Fields may be lists with choices (`list[Literal[...]]`), and lists of lists, whose flag is given once for each.

    Args:
        kinds: settings classes; each flag is a field of one of them.
        description: for `--help`.
    """

    def __init__(self, kinds: Sequence[type], description: str) -> None:
        super().__init__(list(kinds), description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
        for kind in kinds:
            for field in dataclasses.fields(kind):
                if field.metadata.get("nargs") == "*":  # HfArgumentParser's lists take one value or more
                    self._option_string_actions[f"--{field.name}"].nargs = "*"
        actions = {action.dest: action for action in reversed(self._actions)}  # --name comes before --no-name
        self._hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items() if name in actions}
        for name, hint in self._hints.items():
            _refine(actions[name], hint)
            if hint == (bool | None):
                _add_opposite(actions[name])
        self.add_argument("--config", metavar="FILE", help="JSON or YAML with flags; the command line wins.")

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """Settings of the command line, over those of its `--config`; in the order of the classes.

        Raises:
            ValueError: a value is invalid, or the config file can't be read or holds what is no flag.
            SystemExit: argparse's own, for flags that aren't there and values of the wrong kind.
        """
        words = _words(argv)
        values, path = _config(words)
        found, rest = self._parsed(words, self.converted(values, path))
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found

    def parse_known(self, argv: Sequence[str] | None = None) -> tuple[tuple[Any, ...], list[str]]:
        """As `parse`, and the words that are for another script: flags that this one doesn't have, in both places."""
        words = _words(argv)
        values, path = _config(words)
        others = {name: value for name, value in values.items() if name not in self._hints}
        own = {name: value for name, value in values.items() if name in self._hints}
        found, rest = self._parsed(words, self.converted(own, path))
        return found, [*to_words(others), *rest]

    def given(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """The flags that the command line and its `--config` give, by name; defaults are left out.

        Raises:
            ValueError: as `parse`.
        """
        words = [word for word in _words(argv) if word not in ("-h", "--help")]
        values, path = _config(words)
        early = type(self)(self.dataclass_types, "")
        for action in early._actions:
            action.default = argparse.SUPPRESS
        found = vars(early.parse_known_args(words)[0])
        return {**self.converted(values, path), **{name: found[name] for name in found if name in self._hints}}

    def from_values(self, values: Mapping[str, Any], source: str) -> tuple[Any, ...]:
        """Settings of a table of values, such as that of run.json.

        Args:
            source: what errors call the table.

        Raises:
            ValueError: as `parse`.
        """
        return self._parsed([], self.converted(values, source))[0]

    def _parsed(self, words: Sequence[str], values: Mapping[str, Any]) -> tuple[tuple[Any, ...], list[str]]:
        """Settings of the words, over those of the values, and what is left over; the parser stays as it was."""
        before = {action: action.default for action in self._actions}
        self.set_defaults(**values)
        try:
            *found, rest = self.parse_args_into_dataclasses(
                words, return_remaining_strings=True, look_for_args_file=False
            )
        finally:
            for action, default in before.items():
                action.default = default
        return tuple(found[: len(self.dataclass_types)]), rest

    def converted(self, values: Mapping[str, Any], source: str) -> dict[str, Any]:
        """The values as their fields' types; null means left out.

        Raises:
            ValueError: as `from_values`.
        """
        found = {}
        for name, value in values.items():
            if name not in self._hints:
                raise ValueError(f"{source} has {name!r:.80}, which is no flag of this script. See --help.")
            if value is None:
                continue
            choices = next(action.choices for action in self._actions if action.dest == name)
            try:
                found[name] = convert(self._hints[name], value)
                if choices and not {*_parts(found[name])} <= {*choices}:
                    raise ValueError
            except (ValueError, TypeError) as error:
                must = f"one of {', '.join(map(str, choices))}" if choices else wanted(self._hints[name])
                raise ValueError(f"{source} has {name}: {value!r:.80}. It must be {must}.") from error
        return found


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names defaults, where there is one: help texts say what is done where a flag is left out."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", []) else super()._get_help_string(action)


def flat(*groups: Any) -> dict[str, Any]:
    """The fields of all settings in one table, for run.json; `SettingsParser.from_values` reads it back."""
    return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}


def _words(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)


def _config(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the file holds that --config names, and its name; nothing where there is none."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path: str | None = early.parse_known_args(words)[0].config
    return ({}, "") if path is None else (read_config(Path(path)), path)


def _refine(action: argparse.Action, hint: Any) -> None:
    """HfArgumentParser takes the type in `list[...]` for a function that converts a word; not all of them are."""
    element = get_args(hint)[0] if get_origin(hint) is list else None
    if get_origin(element) is list:
        action.type = get_args(element)[0]
    elif get_origin(element) is Literal:
        action.type, action.choices = str, get_args(element)


def _add_opposite(action: argparse.Action) -> None:
    """`--no_name` and `--no-name` of a switch that may be left out."""
    name = action.dest
    group: Any = action.container  # type: ignore[attr-defined]
    words = [f"--no_{name}", f"--no-{name}", f"--no-{name.replace('_', '-')}"]
    group.add_argument(
        *dict.fromkeys(words), action="store_false", dest=name, default=None, help=f"The opposite of --{name}."
    )


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
