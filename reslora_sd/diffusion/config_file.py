"""Config files for a command line: `--config FILE`, JSON or YAML, holds flags without their dashes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def config_flag(argv: Sequence[str]) -> str | None:
    """What --config names, read before the other flags."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path: str | None = early.parse_known_args(argv)[0].config
    return path


def tokens(parser: argparse.ArgumentParser, path: str) -> list[str]:
    """The flags of a config file as if they were typed, so that they pass the same checks.

    Raises:
        ValueError: the file isn't there or can't be read, or it holds what is no flag.
    """
    values = _read_config(Path(path))
    actions = {action.dest: action for action in parser._actions}
    words: list[str] = []
    for name, value in values.items():
        action = actions.get(name)
        if action is None or name in ("config", "help"):
            raise ValueError(f"{path} has {name!r}, which is no flag of this script. See --help.")
        if isinstance(action, argparse.BooleanOptionalAction):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif action.nargs == 0:
            if not isinstance(value, bool):
                raise ValueError(f"{path} has {name}: {value!r}. It must be true or false.")
            words += [f"--{name}"] if value else []
        elif value is not None:
            words += [f"--{name}", *(str(one) for one in (value if isinstance(value, list) else [value]))]
    return words


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--config names {path}, which isn't there.")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except Exception as error:  # json's and yaml's errors have no common base
        raise ValueError(f"{path} can't be read as {'JSON' if path.suffix == '.json' else 'YAML'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no table of flags. Write, for example: method: reslora_is")
    return values
