"""The commands that documentation shows: found in its text, and parsed by the programs' own parsers.

A program is started as its command would start it, and stopped where its flags have been parsed. So nothing here knows
how a program declares its flags.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import transformers
from transformers import HfArgumentParser

from reslora_sd.training.parser import SettingsParser
from tests.scripts import ROOT, SCRIPTS

CONSOLE = {
    "reslora-train": "train_text_to_image_reslora.py",
    "reslora-train-nlg": "train_nlg_reslora.py",
    "reslora-train-nlu": "train_nlu_reslora.py",
    "reslora-compare": "compare_methods.py",
    "reslora-compare-text": "compare_text_methods.py",
    "reslora-page": "app",
    "reslora-convert": "reslora_sd.convert",
    "reslora-data": "reslora_sd.diffusion.data_command",
}
"""Console commands, and the programs that they start."""
_OURS = re.compile(r"\breslora-(train|compare|convert|data|page)|train_scripts/\w+\.py|-m (app|reslora_sd)\b")


@dataclass(frozen=True)
class Command:
    """A line of a shell block that calls one of our programs."""

    place: str
    """The file that shows it."""
    program: str
    """Name of a script's file, or of a module."""
    words: tuple[str, ...]
    """Its arguments."""

    def __str__(self) -> str:
        return f"{self.place}: {self.program}"


def commands_in(path: Path) -> list[Command]:
    """All lines of the file's shell blocks that call one of our programs."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    place = str(path.relative_to(ROOT))
    return [Command(place, *_split(line)) for line in lines if _OURS.search(line.partition(" #")[0])]


def _split(line: str) -> tuple[str, tuple[str, ...]]:
    """The program that a line calls, and its arguments."""
    words = shlex.split(line, comments=True)
    for place, word in enumerate(words):
        arguments = tuple(words[place + 1 :])
        if word in CONSOLE:
            return CONSOLE[word], arguments
        if Path(word).parent.name == SCRIPTS.name and word.endswith(".py"):
            return Path(word).name, arguments
        if word == "-m" and arguments[0].partition(".")[0] in ("app", "reslora_sd"):
            return arguments[0], arguments[1:]
    raise ValueError(f"Which program does this call? {line}")


def parse(program: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """All settings that the program makes of its arguments, and the words that are no flags of it.

    Raises:
        SystemExit: the program refuses them.
    """
    with _stopping_after_parsing() as seen:
        _start(program, words)
    _, found, rest = seen[-1]
    return {name: value for one in found for name, value in vars(one).items()}, rest


def parser_of(program: str) -> argparse.ArgumentParser:
    """The program's parser, as `--help` uses it; of a command of its own with a space before its name."""
    program, *words = program.split()
    with _stopping_after_parsing() as seen, contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        _start(program, [*words, "--help"])
    return seen[-1][0]


def _start(program: str, words: Sequence[str]) -> None:
    """Runs the program as a command, until `_Parsed`."""
    verbosity = transformers.utils.logging.get_verbosity()
    try:
        with (
            mock.patch.object(sys, "argv", [program, *words]),
            contextlib.suppress(_Parsed),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)  # runpy's, of modules
            if program.endswith(".py"):
                runpy.run_path(str(SCRIPTS / program), run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


class _Parsed(BaseException):
    """Ends a program; no `except Exception` catches it."""


_Seen = list[tuple[argparse.ArgumentParser, list[Any], list[str]]]


@contextlib.contextmanager
def _stopping_after_parsing() -> Iterator[_Seen]:
    """Notes each parser with what it found and left over, and ends the program where it has its settings."""
    seen: _Seen = []

    def of_argparse(self: Any, result: tuple[Any, list[str]]) -> Any:
        if isinstance(self, HfArgumentParser) or not self.add_help:  # settings are made of it; a look for --config
            return result
        seen.append((self, [result[0]], result[1]))
        raise _Parsed

    def of_settings(self: Any, result: Any) -> Any:
        found, rest = result if isinstance(result[-1], list) else (result, [])
        seen.append((self, list(found), rest))
        raise _Parsed

    def watched(kind: type, name: str, then: Callable[[Any, Any], Any]) -> Any:
        original = getattr(kind, name)

        def call(self: Any, *args: Any, **more: Any) -> Any:
            if getattr(self, "add_help", False):
                seen.append((self, [], []))
            return then(self, original(self, *args, **more))

        return mock.patch.object(kind, name, call)

    with (
        watched(argparse.ArgumentParser, "parse_known_args", of_argparse),
        watched(SettingsParser, "parse", of_settings),
        watched(SettingsParser, "parse_known", of_settings),
    ):
        yield seen
