"""The card of a run: how its LoRA is loaded, the command that made it, its settings, its pictures, their measures."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reslora_sd.runs.contents import kohya_file
from reslora_sd.runs.names import BASE, DIFFUSERS_FILE, PEFT_FOLDER, RUN_FILE, UNMERGED
from reslora_sd.runs.paths import inside
from reslora_sd.runs.run import PictureKey, Run, is_text

from .grids import chosen_steps
from .pictures import PictureView, decoded, reference_view, source_of, view
from .text_runs import size_of_answers
from .training import SCRIPT

PEFT = PEFT_FOLDER
FORMS = ("diffusers", "kohya", PEFT)
"""What a run's LoRA can be downloaded as."""
SETTINGS = "settings"
"""The download of its settings, for `--config`."""
_MOST_PROMPTS, _MOST_STEPS, _SIDE = 4, 24, 128
_LONGEST_VALUE = 300


def lora_file(run: Run, form: str) -> Path | None:
    """The file of the run that holds its LoRA for diffusers or kohya; `None` where it has none.

    A link that leads out of the run counts as none. PEFT's form is made of diffusers'.
    """
    name = kohya_file(run.path) if form == "kohya" else DIFFUSERS_FILE
    try:
        found = inside(run.path, name)
    except (OSError, ValueError):
        return None
    return found if found.is_file() else None


def parts_of_text(run: Run) -> str:
    """Where the parts of a text run are, those that are there."""
    try:
        has_lora = inside(run.path, PEFT).is_dir()
    except (OSError, ValueError):
        has_lora = False
    lora = f"Its LoRA is in {PEFT}/ of its folder, where README.md says how to load it."
    answers = " Its answers are in the tab Text." if size_of_answers(run) is not None else " It has kept no answers."
    return (lora if has_lora else f"Its folder has no {PEFT}/, the LoRA that is written at the end.") + answers


def code(run: Run) -> str:
    """Three lines of Python that load the downloaded LoRA; empty where the run has none."""
    base = run.settings.get("base_model")
    if lora_file(run, "diffusers") is None or not isinstance(base, str):
        return ""
    return (
        "from diffusers import DiffusionPipeline\n"
        f"pipeline = DiffusionPipeline.from_pretrained({base!r})\n"
        f"pipeline.load_lora_weights({DIFFUSERS_FILE!r})\n"
    )


def settings(run: Run) -> dict[str, Any]:
    """The run's flags, checked as if they were typed; those that were left out are not in it.

    Raises:
        ValueError: run.json holds none, or others than this version's script has.
    """
    from reslora_sd.diffusion.arguments import settings_of, to_arguments

    if is_text(run.settings):
        raise ValueError("It is a text run: its script's settings are in run.json.")
    if not run.arguments:
        raise ValueError("run.json holds no settings.")
    return {name: value for name, value in to_arguments(settings_of(run.arguments)).items() if value is not None}


def command(run: Run) -> str:
    """The command that made the run, with the flags that differ from the defaults alone.

    Raises:
        ValueError: as `settings`, or a value can't be typed as a flag.
    """
    from reslora_sd.training.config_file import to_words

    wanted = settings(run)
    given = {"output_dir": wanted.pop("output_dir", str(run.path))}
    for _ in range(4):  # a flag can change another's default
        base = _with_defaults(given)
        missing = {name: value for name, value in wanted.items() if base.get(name) != value}
        if not missing:
            break
        given |= missing
    for name, value in given.items():
        words = value if isinstance(value, list) else []
        if any(str(word).startswith("-") for word in words) or (len(words) == 1 and str(words[0]).endswith(".txt")):
            raise ValueError(f"{name} has {words[0]!s:.80}, which a command would take for something else.")
    return shlex.join(["python", f"{SCRIPT.parent.name}/{SCRIPT.name}", *to_words(dict(sorted(given.items())))])


def _with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a command with these flags. No file that they name is opened."""
    from reslora_sd.diffusion.arguments import make_parser
    from reslora_sd.diffusion.defaults import defaults_for
    from reslora_sd.training.parser import flat

    parser = make_parser()
    parser.set_defaults(**defaults_for(given))
    return flat(*parser.from_values(given, RUN_FILE))


def settings_file(run: Run) -> str:
    """The run's settings as JSON, which `--config` reads.

    Raises:
        ValueError: as `settings`.
    """
    return json.dumps(settings(run), indent=2, ensure_ascii=False) + "\n"


def download_name(name: str, ending: str) -> str:
    """A name for a browser's file, of the run's name on the page."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]
    return f"{plain or 'lora'}{ending}"


@dataclass(frozen=True)
class Row:
    """One setting of two runs."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether both runs have another value."""
        return self.first != self.second


def compare_settings(first: Run, second: Run) -> list[Row]:
    """All settings that either run has, those that differ first."""
    one, two = _told(first), _told(second)
    names = sorted(one.keys() | two.keys())
    return sorted((Row(name, one.get(name, ""), two.get(name, "")) for name in names), key=lambda row: not row.differs)


def _told(run: Run) -> dict[str, str]:
    found = {name: value for name, value in run.arguments.items() if value is not None}
    for name in ("base_model", "dataset", "trainable_parameters"):
        if run.settings.get(name) is not None:
            found[name] = run.settings[name]
    return {str(name)[:80]: _short(value) for name, value in list(found.items())[:500]}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class FirstAndLast:
    """A prompt's first and last picture of a run, and the real one where there is one."""

    prompt: str
    first: PictureView
    last: PictureView
    real: PictureView | None


def first_and_last(name: str, run: Run) -> list[FirstAndLast]:
    """Of the first prompts, at the first seed of each."""
    found = []
    for prompt in run.prompts()[:_MOST_PROMPTS]:
        series = _series(run, prompt)
        if series:
            two = [view(name, run, key.prompt, key.seed, key.variant, key.step) for key in (series[0], series[-1])]
            found.append(FirstAndLast(prompt, two[0], two[1], reference_view({name: run}, prompt)))
    return found


@dataclass(frozen=True)
class Measure:
    """What the pictures of one step are like. Differences are root mean squares over all pixels, 0 to 1."""

    step: int
    from_first: float | None
    """From the pictures of the first step: how much training has changed them."""
    from_real: float | None
    """From the data set's own pictures of the same prompts."""
    loss: float | None
    """On held-out pictures, where the log has it at this step; else the training loss."""


def measures(run: Run) -> list[Measure]:
    """Measures of the pictures by step: means over the first prompts, made without any model."""
    series = {prompt: {key.step: key for key in _series(run, prompt)} for prompt in run.prompts()[:_MOST_PROMPTS]}
    steps = chosen_steps(sorted({step for keys in series.values() for step in keys}), _MOST_STEPS)
    losses = {row["step"]: row.get("validation_loss", row.get("loss")) for row in run.log}
    real = {prompt: _pixels(one.image) for prompt in series if (one := reference_view({"": run}, prompt)) is not None}
    first = {prompt: _picture(run, next(iter(keys.values()))) for prompt, keys in series.items() if keys}
    found = []
    for step in steps:
        now = {prompt: _picture(run, keys[step]) for prompt, keys in series.items() if step in keys}
        found.append(Measure(step, _difference(now, first), _difference(now, real), losses.get(step)))
    return found


def _series(run: Run, prompt: str) -> list[PictureKey]:
    """One picture a step: of the first seed, unmerged where there are such."""
    keys = [key for key in run.pictures if key.prompt == prompt and key.variant != BASE]
    unmerged = [key for key in keys if key.variant == UNMERGED] or keys
    return sorted((key for key in unmerged if key[1:3] == unmerged[0][1:3]), key=lambda key: key.step)


def _picture(run: Run, key: PictureKey) -> Any:
    try:
        return _small(*source_of(run.validation, run.pictures[key].file)).astype(np.float32) / 255
    except ValueError:  # it is told where the picture is shown
        return None


@functools.lru_cache(maxsize=1024)
def _small(path: Path, mtime_ns: int, size: int) -> Any:
    """(side, side, 3) in bytes, 49 kB, of the picture of a `source_of`."""
    return _shrunk(decoded(path, mtime_ns, size))


def _shrunk(image: Image.Image) -> Any:
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _pixels(image: Image.Image | None) -> Any:
    """(side, side, 3), 0 to 1; `None` where there is no picture."""
    return None if image is None else _shrunk(image).astype(np.float32) / 255


def _difference(now: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    pairs = [(now[prompt], other[prompt]) for prompt in now if now[prompt] is not None and prompt in other]
    squares = [float(((one - two) ** 2).mean()) for one, two in pairs if two is not None]
    return float(np.mean(np.sqrt(squares))) if squares else None
