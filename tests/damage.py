"""Damages files that scripts and page read, and reads them: one sentence each, nothing written, nothing executed.

    python -m tests.damage --trials 10000 --seed 0

A trial damages one file of one kind (see `tests.damaged_kinds`): cuts it, changes bytes, replaces values by wrong ones,
or puts something else in its place. Then it reads the file as scripts and page do. What follows has to be an error of
one line that names the file, or no error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import pickle
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tests.damaged_kinds import KINDS, Kind
from tests.pickled import WritesMarker

WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    10**400,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 3000,
    "<b>$\\frac{(",
    "../../x",
    "\0",
    [],
    {},
    [[]],
    {"a": [1]},
    "\ud800",
]
_DEEP = 100_000


def replace_values(value: Any, chance: random.Random, share: float = 0.08) -> Any:
    """The same with parts replaced or left out, at random."""
    if chance.random() < share:
        return chance.choice(WRONG)
    if isinstance(value, dict):
        return {key: replace_values(one, chance) for key, one in value.items() if chance.random() > share / 2}
    if isinstance(value, list):
        return [replace_values(one, chance) for one in value]
    return value


def damage(content: bytes, name: str, chance: random.Random, marker: Path) -> bytes:
    """One file's content, damaged in one way."""
    ways = [_cut, _flip, _flip, _binary, _nested, lambda *_: b"", lambda *_: pickle.dumps(WritesMarker(marker))]
    if name.endswith((".json", ".jsonl")):
        ways += [_values] * 6
    elif name.endswith(".safetensors"):
        ways += [_header, _header, _header, _numbers, _numbers, _numbers]
    elif name.endswith((".csv", ".txt", ".yaml")):
        ways += [_words] * 4
    return chance.choice(ways)(content, chance)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 3, 30])):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _binary(content: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([1, 40, 3000]))


def _nested(content: bytes, chance: random.Random) -> bytes:
    return chance.choice([b"[", b'{"a":']) * _DEEP


def _values(content: bytes, chance: random.Random) -> bytes:
    share = chance.choice([0.02, 0.08, 0.3])
    try:
        table = json.loads(content)
    except ValueError:
        lines = [replace_values(json.loads(line), chance, share) for line in content.splitlines()]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()
    return json.dumps(replace_values(table, chance, share)).encode()


def _words(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    wrong = [b"nan", b"", b'"', b"a,b,c", b"- [", b"\xff\xfe", b"!!python/object/apply:os.getcwd []", b"\0", b": :"]
    lines[chance.randrange(len(lines))] = chance.choice(wrong)
    return chance.choice([b"", b"\xef\xbb\xbf"]) + b"\n".join(lines)


def _header(content: bytes, chance: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = {
        key: json.dumps(replace_values(json.loads(value), chance, 0.15)) if value[:1] in "{[" else value
        for key, value in header.get("__metadata__", {}).items()
        if chance.random() > 0.1
    }
    if chance.random() < 0.7:
        header["__metadata__"] = about
    else:
        header = replace_values(header, chance, 0.03)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _numbers(content: bytes, chance: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    changed = bytearray(content)
    place = 8 + length + 4 * chance.randrange((len(content) - 8 - length) // 4)
    changed[place : place + 4] = struct.pack("<f", chance.choice([float("nan"), float("inf"), -float("inf"), 3e38]))
    return bytes(changed)


class Trials:
    """Folders of whole files, one a kind, and what trials on copies of them gave."""

    def __init__(self, folder: Path, kinds: tuple[Kind, ...] = KINDS) -> None:
        self.folder, self.kinds = folder, kinds
        self.outcomes: Counter[str] = Counter()
        for kind in kinds:
            (folder / "whole" / kind.name).mkdir(parents=True)
            kind.make(folder / "whole" / kind.name)

    def run(self, number: int, seed: int) -> str | None:
        """One trial; gives what is wrong with its end."""
        chance = random.Random(f"{seed}/{number}")
        kind = chance.choice(self.kinds)
        copy, marker = self.folder / "copy", self.folder / "marker"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder / "whole" / kind.name, copy)
        file = copy / chance.choice(kind.files)
        file.write_bytes(damage(file.read_bytes(), file.name, chance, marker))
        if kind.afterwards is not None and chance.random() < 0.7:
            kind.afterwards(copy)
        before = _contents(copy)
        fault = self._read(kind, copy, file.name)
        if marker.exists():
            marker.unlink()
            fault = "something was executed"
        if _contents(copy) != before:
            fault = f"something was written; {fault}"
        return fault and f"trial {number}: {kind.name}, {file.relative_to(copy)}: {fault}"

    def _read(self, kind: Kind, folder: Path, name: str) -> str | None:
        try:
            with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind.read(folder)
        except (ValueError, FileNotFoundError) as error:
            self.outcomes[f"{kind.name}: told"] += 1
            text = str(error)
            if type(error) not in (ValueError, FileNotFoundError):
                return f"a {type(error).__name__}: {text[:200]}"
            if kind.names_file and name not in text:
                return f"the file isn't named: {text[:200]}"
            return f"more than a sentence: {text[:400]!r}" if "\n" in text.strip() or len(text) > 1200 else None
        except Exception as error:  # whatever it is, it is what this module looks for
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
        self.outcomes[f"{kind.name}: read"] += 1
        return None


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to repeat one")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    os.environ["HF_HUB_OFFLINE"] = "1"
    began, faults = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder))
        for number in range(arguments.first, arguments.first + arguments.trials):
            if fault := trials.run(number, arguments.seed):
                faults.append(fault)
                print(fault, flush=True)
    for outcome, count in sorted(trials.outcomes.items()):
        print(f"{count:6} {outcome}")
    print(f"{arguments.trials} trials, {len(faults)} faults, {time.perf_counter() - began:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
