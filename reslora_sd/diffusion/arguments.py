"""The command line of train_text_to_image_reslora.py, and the way back from run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files.texts import read_utf8
from ..training.parser import SettingsParser, flat
from .defaults import defaults_for
from .settings import GROUPS, UnetSettings

_SECRET = ("hub_token",)


def parse_settings(argv: Sequence[str] | None = None) -> UnetSettings:
    """Reads flags and `--config`, fills in defaults that depend on others, and checks what can be checked without data.

    Raises:
        ValueError: a value is out of range, or two flags contradict each other.
    """
    parser = make_parser()
    parser.set_defaults(**defaults_for(parser.given(argv)))
    method, model, data, training, optimizer, validation, output = parser.parse(argv)
    prompts = validation.validation_prompts
    validation = replace(validation, validation_prompts=None if prompts is None else prompts_in(prompts))
    return UnetSettings(method, model, data, training, optimizer, validation, output)


def settings_of(arguments: Mapping[str, Any], source: str = "run.json") -> UnetSettings:
    """The settings that `to_arguments` wrote.

    Raises:
        ValueError: there is a name that is no flag, or an invalid value; the message names `source`.
    """
    parser = make_parser()
    given = parser.converted(arguments, source)
    defaults = defaults_for(given)
    defaults.pop("dataset_name", None)  # a run that names no data used OpenMoji: earlier versions had no styles
    defaults |= {} if "buckets" in arguments else {"buckets": False}  # nor did they have buckets
    parser.set_defaults(**defaults)
    return UnetSettings(*parser.from_values(given, source))


def to_arguments(settings: UnetSettings) -> dict[str, Any]:
    """All settings in one table without secrets, for run.json and trackers."""
    return {name: value for name, value in sorted(flat(*settings.groups).items()) if name not in _SECRET}


def make_parser() -> SettingsParser:
    """All flags, in groups; their help texts are the reference."""
    return SettingsParser(
        GROUPS, "Fine-tunes the U-Net of Stable Diffusion 1.x, 2.x or SDXL with LoRA or ResLoRA, and merges."
    )


def prompts_in(words: Sequence[str]) -> list[str]:
    """The prompts that `--validation_prompts` means: these, or the lines of one .txt file.

    Raises:
        ValueError: the file isn't there, is no UTF-8 text, or is empty.
    """
    if len(words) != 1 or not words[0].endswith(".txt"):
        return list(words)
    path = Path(words[0])
    if not path.is_file():
        raise ValueError(f"--validation_prompts names the file {path}, which isn't there.")
    prompts = [line.strip() for line in read_utf8(path).splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompt. Write one a line.")
    return prompts
