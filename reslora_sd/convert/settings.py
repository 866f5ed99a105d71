"""The flags of reslora-convert, and how its command line is read. No torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..config import Precision
from ..training.options import check_at_least, check_choices, check_finite, option
from ..training.parser import SettingsParser

Form = Literal["diffusers", "peft", "kohya", "sai"]
Approach = Literal["best", "none", "input", "weights", "least_squares", "exact"]
_DESCRIPTION = (
    "Turns a LoRA file into another form. IN is a file or a folder that holds one; OUT is a .safetensors file, or a "
    "folder for PEFT and for a pipeline (--fuse). `%(prog)s inspect FILE` says what a file is."
)
_SWITCHES = ("calibrate", "overwrite", "json")
_TRUTHS = frozenset("true false yes no t f y n 1 0".split())


@dataclass(frozen=True)
class ConvertSettings:
    """How the LoRA is changed on its way, and into what.

    Raises:
        ValueError: a value is invalid, or two flags contradict each other.
    """

    to: Form | None = option(None, "Form of OUT (left out: that of IN; of a merge, diffusers).")
    merge: Approach | None = option(
        None, "IN is a run, or its reslora_adapter.safetensors: merge its paths so (without a value: best).", nargs="?"
    )
    base: str | None = option(None, "Model that the adapter of --merge is for (left out: that of its run.json).")
    calibrate: bool = option(
        False, "Let --merge run the model on the run's own pictures, which input and least_squares need."
    )
    calibration_samples: int | None = option(None, "Noisy pictures for --calibrate (left out: as many as the run).")
    rank: int | None = option(None, "Cut every pair to this rank by SVD; smaller pairs stay as they are.")
    strength: float = option(1.0, "Multiply the LoRA by this.")
    precision: Precision = option("float32", "Of the numbers in OUT. float32 loses nothing; fp16 is half the size.")
    fuse: str | None = option(
        None, "Write the pipeline of this folder, checkpoint file or Hub name to OUT, with the LoRA in its weights."
    )
    model_config: str | None = option(
        None, "For --fuse or --base with a single file of unusual sizes: a pipeline's folder without weights."
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = option(
        None, "For --fuse, or --base with --calibrate: a single file of SD 2.x that doesn't say what it predicts."
    )
    overwrite: bool = option(False, "Replace OUT if it is there.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, ("rank", "calibration_samples"))
        check_finite(self)
        if self.merge is None and (self.base or self.calibrate or self.calibration_samples):
            raise ValueError(
                "--base, --calibrate and --calibration_samples belong to --merge. Add it, or leave them out."
            )
        if self.calibration_samples and not self.calibrate:
            raise ValueError("--calibration_samples belongs to --calibrate. Add it, or leave it out.")
        if self.prediction_type and self.fuse is None and not (self.calibrate and self.base):
            raise ValueError("--prediction_type belongs to --fuse, or to --calibrate with --base. Leave it out.")
        if self.model_config and self.fuse is None and self.merge is None:
            raise ValueError("--model_config belongs to --fuse or --merge. Add one, or leave it out.")
        if self.fuse is not None and self.to is not None:
            raise ValueError("--fuse writes a whole pipeline, and --to a LoRA. Run the command twice for both.")


@dataclass(frozen=True)
class InspectSettings:
    """How `reslora-convert inspect` prints."""

    json: bool = option(False, "Print JSON instead of a table.")


@dataclass(frozen=True)
class Conversion:
    """The command line of a conversion."""

    source: Path
    target: Path
    settings: ConvertSettings


@dataclass(frozen=True)
class Inspection:
    """The command line of `inspect`."""

    source: Path
    settings: InspectSettings


def make_parser(inspect: bool = False) -> SettingsParser:
    """The flags of either command; their help texts are the reference."""
    description = "Says what a LoRA file is: its form, modules, ranks, norms and metadata." if inspect else _DESCRIPTION
    parser = SettingsParser([InspectSettings if inspect else ConvertSettings], description)
    parser.prog = f"{_program()}{' inspect' if inspect else ''}"
    parser.usage = "%(prog)s FILE [--json]" if inspect else "%(prog)s IN OUT [flags]"
    return parser


def parse(argv: Sequence[str] | None = None) -> Conversion | Inspection:
    """The command line, checked.

    Raises:
        ValueError: a value is invalid.
        SystemExit: argparse's own, for flags that aren't there, and missing or superfluous files.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    inspect = words[:1] == ["inspect"]
    parser = make_parser(inspect)
    (settings,), files = parser.parse_known(list(_with_values(words[inspect:])))
    unknown = [word for word in files if word.startswith("-") and word != "-"]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if len(files) != (1 if inspect else 2):
        parser.error(f"{'FILE is' if inspect else 'IN and OUT are'} wanted, but {len(files)} came: {' '.join(files)}")
    if inspect:
        return Inspection(Path(files[0]), settings)
    return Conversion(Path(files[0]), Path(files[1]), settings)


def _with_values(words: Sequence[str]) -> Iterable[str]:
    """Flags that may stand without a value get one, so that they don't take the file after them for it."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name = word.removeprefix("--") if word.startswith("--") else ""
        if name in _SWITCHES and following.lower() not in _TRUTHS:
            yield f"{word}=true"
        elif name == "merge" and following not in get_args(Approach):
            yield f"{word}=best"
        else:
            yield word


def _program() -> str:
    called = Path(sys.argv[0])
    return "python -m reslora_sd.convert" if called.parts[-2:] == ("convert", "__main__.py") else "reslora-convert"
