"""A training with everything that matters for its results, and the key that it is found by. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .items import PICTURES, Need, family_of
from .presets import Preset

MADE_FOLDER = "made"
"""Of the output folder: made-up models and rows, which a preset names as `made/...`."""
_FORM = 1
"""Is raised where the same flags begin to mean another training."""
SCRIPTS = {
    "nlg": "train_nlg_reslora.py",
    "nlu": "train_nlu_reslora.py",
    PICTURES: "train_text_to_image_reslora.py",
}


@dataclass(frozen=True)
class Place:
    """Where things are on this machine: none of it matters for the results."""

    output: Path
    data: Path

    def of(self, name: str) -> Path:
        """A file that a preset names."""
        return (self.output if name.split("/")[0] == MADE_FOLDER else self.data) / name

    def model(self, name: str) -> str:
        """A model: made up by this program, or whatever the training script takes."""
        return str(self.of(name)) if name.split("/")[0] == MADE_FOLDER else name

    def runs(self) -> Path:
        """The folder with all runs."""
        return self.output / "runs"


@dataclass(frozen=True)
class Run:
    """One training."""

    need: Need
    rate: float
    seed: int
    flags: Mapping[str, Any]
    """That matter, without files and model."""
    model: str
    files: Mapping[str, str]
    """Of the preset, by flag."""
    key: str

    @property
    def name(self) -> str:
        """The name of its folder: what it is in short, and the key."""
        need = self.need
        parts = [need.task, need.method]
        parts += [f"pre{need.pre_num}"] if need.pre_num is not None else []
        parts += [f"r{self.flags['rank']}"] if "rank" in self.flags else []
        return "-".join([*parts, f"lr{self.rate:g}", f"seed{self.seed}", self.key])

    def folder(self, place: Place) -> Path:
        """Where it is, or comes."""
        return place.runs() / self.name


def make_run(preset: Preset, place: Place, need: Need, rate: float, seed: int) -> Run:
    """The training of a need at a rate and with a seed.

    The key is of the flags, the rate, the seed, the model's name and what the data files hold, wherever they lie.
    """
    task = preset.task(need.task)
    files = {flag: task[flag] for flag in ("train_file", "test_file") if flag in task}
    flags, model = preset.flags(need), preset.family(need.task)["model"]
    matters = {
        "form": _FORM,
        "script": SCRIPTS[family_of(need.task)],
        "flags": flags,
        "rate": rate,
        "seed": seed,
        "model": model,
        "files": {flag: _content(place.of(name)) or name for flag, name in files.items()},
    }
    text = json.dumps(matters, sort_keys=True, default=str)
    return Run(need, rate, seed, flags, model, files, hashlib.sha256(text.encode()).hexdigest()[:10])


def _content(file: Path) -> str | None:
    """sha256 of a file; `None` where there is none."""
    if not file.is_file():
        return None
    about = file.stat()
    return _sha256(file, about.st_size, about.st_mtime_ns)


@cache
def _sha256(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line; a flag that is false is left out."""
    words: list[str] = []
    for name, value in flags.items():
        if value is False or value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return words
