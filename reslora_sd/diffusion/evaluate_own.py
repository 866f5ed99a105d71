"""Does the embedded model learn somebody's own pictures? Twelve drawings, the defaults, and two figures.

    python -m reslora_sd.diffusion.evaluate_own

draws twelve captioned pictures, trains on them with the training script's own defaults, loads the exported LoRA into a
fresh pipeline, and draws the twelve captions. It prints

* how many samples have the picture of their own caption as their nearest of the twelve (mean squared difference of
  pixels),
* the colour error: the mean colour of the subject in a sample against that in the picture of its caption, mean absolute
  difference of the channels in 0 ... 1. A pixel belongs to the subject if a channel is more than 0.15 from the
  paper's, which is the median of the border.

`own.png` in the run folder shows each sample below its picture.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..training.command import quiet_libraries, run_command
from ..training.options import check_choices, option
from ..training.parser import SettingsParser
from .arguments import parse_settings as training_settings
from .contact_sheet import Row, contact_sheet
from .own_drawings import drawings, write_drawings
from .settings import UnetSettings

Pixels = NDArray[np.float64]
"""(height, width, 3) in [0, 1]."""
FROM_PAPER = 0.15
"""Difference of a channel from the paper's, above which a pixel belongs to the subject."""
SHEET = "own.png"


@dataclass(frozen=True)
class OwnSettings:
    """What is drawn, and how it is trained."""

    drawings: Literal["flat", "sketch"] = option("flat", "The set of twelve drawings.")
    method: Literal["lora", "reslora_is", "reslora_bs", "reslora_ms"] = option("reslora_is", "Method of the training.")
    seed: int = option(42, "Seed of training and samples.")
    output_dir: str = option("runs/evaluate_own", "Folder for drawings and runs.")

    def __post_init__(self) -> None:
        check_choices(self)


def pixels_of(picture: Image.Image, side: int) -> Pixels:
    """The middle square of a picture, as training sees it.  -> (side, side, 3)"""
    square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return np.asarray(square, dtype=np.float64) / 255


def subject(picture: Pixels) -> NDArray[np.bool_]:
    """Which pixels differ from the paper.  -> (height, width)"""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    found: NDArray[np.bool_] = np.abs(picture - np.median(border, axis=0)).max(axis=2) > FROM_PAPER
    return found


def subject_colour(picture: Pixels) -> Pixels:
    """Mean colour of the subject; of the whole picture where nothing differs from the paper.  -> (3,)"""
    mask = subject(picture)
    colour: Pixels = picture[mask if mask.any() else ...].reshape(-1, 3).mean(axis=0)
    return colour


def nearest(samples: Sequence[Pixels], pictures: Sequence[Pixels]) -> list[int]:
    """The place of each sample's nearest picture."""
    return [int(np.argmin([((sample - one) ** 2).mean() for one in pictures])) for sample in samples]


def colour_error(samples: Sequence[Pixels], pictures: Sequence[Pixels]) -> float:
    """Mean difference of the subject's colour between each sample and the picture of the same place."""
    pairs = zip(samples, pictures, strict=True)
    return float(np.mean([np.abs(subject_colour(one) - subject_colour(other)).mean() for one, other in pairs]))


def train(settings: OwnSettings) -> UnetSettings:
    """Writes the drawings and trains on them in a process of its own; a run that is there is made again.

    Raises:
        RuntimeError: the training failed; it said why.
    """
    home = Path(settings.output_dir) / settings.drawings
    write_drawings(settings.drawings, home / "pictures")
    flags = ["--train_data_dir", str(home / "pictures"), "--output_dir", str(home / settings.method)]
    flags += ["--method", settings.method, "--seed", str(settings.seed), "--overwrite_output_dir"]
    done = subprocess.run([sys.executable, str(_script()), *flags])
    if done.returncode:
        raise RuntimeError(f"The training ended with status {done.returncode}. Its message is above.")
    return training_settings(flags)


def _script() -> Path:
    """In the checkout beside the package, in an installation inside it."""
    package = Path(__file__).resolve().parents[1]
    places = [above / "train_scripts" / "train_text_to_image_reslora.py" for above in (package, package.parent)]
    return next(place for place in places if place.is_file())


def draw(run: UnetSettings, captions: Sequence[str]) -> list[Image.Image]:
    """One sample of each caption, by the exported LoRA, as the run draws its validation pictures."""
    from .models import load_parts
    from .validation import as_a_run_draws

    quiet_libraries()
    pipeline = load_parts(run.model.pretrained_model_name_or_path, **run.model.to_load()).pipeline()
    pipeline.load_lora_weights(run.output.output_dir)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return as_a_run_draws(run, captions, side).draw(pipeline)


def main(settings: OwnSettings) -> dict[str, Any]:
    """Draw, train, draw, print."""
    started = time.monotonic()
    run = train(settings)
    captions, pictures = zip(*drawings(settings.drawings), strict=True)
    samples = draw(run, captions)
    side = samples[0].width
    wanted, drawn = [pixels_of(one, side) for one in pictures], [pixels_of(one, side) for one in samples]
    found = nearest(drawn, wanted)
    figures = {
        "hits": sum(place == own for own, place in enumerate(found)),
        "colour_error": colour_error(drawn, wanted),
        "seconds": time.monotonic() - started,
    }
    rows = []
    for start in range(0, len(captions), 6):
        part = slice(start, start + 6)
        rows.append(Row([ImageOps.fit(one, (side, side)) for one in pictures[part]], "picture"))
        rows.append(Row(samples[part], "sample", captions[part]))
    sheet = Path(run.output.output_dir) / SHEET
    contact_sheet(rows, scale=2).save(sheet)
    print(f"\nOwn pictures ({settings.drawings}), {settings.method}, seed {settings.seed}:")
    print(f"  nearest picture is the named one: {figures['hits']} of {len(captions)}")
    print(f"  mean colour error:                {figures['colour_error']:.3f}")
    print(f"  training and drawing:             {figures['seconds']:.0f} s")
    print(f"  look at:                          {sheet}")
    return figures


def cli() -> None:
    """The command line."""
    run_command(lambda: main(SettingsParser((OwnSettings,), __doc__.split("\n")[0]).parse()[0]))


if __name__ == "__main__":
    cli()
