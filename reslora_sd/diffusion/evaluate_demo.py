"""How well do LoRAs of an embedded style draw names that they were not trained on? Prints figures, and writes a sheet.

    python -m reslora_sd.diffusion.evaluate_demo runs/lora runs/reslora_is --sheet runs/demo.png

For each name that the style keeps from training, the base model and the exported LoRA of every run draw one picture.
The style's own drawing of that name is the wanted one.

* distance: root mean square difference from the wanted drawing in the VAE's latents, and as a share of the base's.
* percentile: share of the other names' wanted drawings that are farther away; 1 is best, chance is 0.5.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..runs.names import DIFFUSERS_FILE, STYLES
from ..runs.reader import read_run
from ..runs.run import Run
from ..training.command import quiet_libraries, run_command
from .arguments import settings_of
from .contact_sheet import Row, contact_sheet
from .likeness import distances, latents_of, percentiles
from .models import load_parts
from .styles import UNSEEN, load_style
from .validation import as_a_run_draws

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_COLUMNS = 8
"""Names on the sheet."""


@dataclass(frozen=True)
class Figures:
    """Means over all names."""

    distance: float
    percentile: float


def open_runs(paths: Sequence[Path]) -> tuple[list[Run], str]:
    """Finished runs of one base model and one style, and the style.

    Raises:
        ValueError: one isn't finished, or they aren't of one model and style.
    """
    runs = [read_run(path) for path in paths]
    for run in runs:
        if run.state != "finished" or not (run.path / DIFFUSERS_FILE).is_file():
            raise ValueError(f"{run.path} is no finished run of the picture script. Make the runs with `make demo`.")
    styles = {str(run.arguments.get("dataset_name")) for run in runs}
    models = {str(run.settings.get("base_model")) for run in runs}
    if len(styles) > 1 or len(models) > 1:
        raise ValueError(
            f"The runs have the data {sorted(styles)} and the base models {sorted(models)}. Name runs of one."
        )
    (style,) = styles
    if style not in STYLES:
        raise ValueError(
            f"{runs[0].path} was trained on {style}, of which no wanted drawings are known. Train with --dataset_name "
            f"and one of {', '.join(STYLES)}."
        )
    return runs, style


def draw_all(runs: Sequence[Run], prompts: Sequence[str]) -> tuple[dict[str, list[Image.Image]], AutoencoderKL]:
    """Pictures of the prompts by the base model and by every run, as the runs' own validation draws; and the VAE."""
    settings = settings_of(runs[0].arguments)
    parts = load_parts(str(runs[0].settings["base_model"]), **settings.model.to_load())
    validation = as_a_run_draws(settings, prompts, settings.data.resolution or parts.resolution)
    pipeline = parts.pipeline()
    pictures = {"base": validation.draw(pipeline)}
    for run in runs:
        pipeline.load_lora_weights(str(run.path), weight_name=DIFFUSERS_FILE)
        pictures[run.path.name] = validation.draw(pipeline)
        pipeline.unload_lora_weights()
    return pictures, parts.vae


def figures_of(vae: AutoencoderKL, drawn: Sequence[Image.Image], wanted: Sequence[Image.Image]) -> Figures:
    """How near drawings are to the wanted ones: `drawn[i]` should be `wanted[i]`, of which there may be more."""
    found = distances(latents_of(vae, drawn), latents_of(vae, wanted))  # (drawn, wanted)
    places = range(len(drawn))
    return Figures(found[list(places), list(places)].mean().item(), percentiles(found, places).mean().item())


def table(figures: dict[str, Figures]) -> str:
    """The figures as lines to read; the first is the base's."""
    base = next(iter(figures.values())).distance
    width = max(map(len, figures)) + 2
    lines = [f"{'':{width}}distance  of the base's  percentile"]
    for name, found in figures.items():
        lines.append(f"{name:{width}}{found.distance:8.3f}{found.distance / base:15.3f}{found.percentile:12.4f}")
    return "\n".join(lines)


def write_sheet(
    pictures: dict[str, list[Image.Image]], wanted: Sequence[Image.Image], prompts: Sequence[str], file: Path
) -> None:
    """A PNG with a row for each model, the wanted drawings last, and a column for each of the first names."""
    shown = prompts[:_COLUMNS]
    rows = [Row(drawn[: len(shown)], _title(name)) for name, drawn in {**pictures, "wanted": wanted}.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, shown, scale=2).save(file)


def _title(name: str) -> str:
    return name.replace("reslora", "ResLoRA") if "reslora" in name else name.replace("lora", "LoRA")


def main(paths: Sequence[Path], names: int, sheet: Path | None) -> None:
    """Draw, compare, print, write."""
    quiet_libraries()
    runs, style = open_runs(paths)
    pairs = load_style(style, UNSEEN)
    prompts = [caption for _, caption in pairs]
    pictures, vae = draw_all(runs, prompts[:names])
    wanted = [picture.resize(pictures["base"][0].size, Image.Resampling.LANCZOS) for picture, _ in pairs]
    figures = {name: figures_of(vae, drawn, wanted) for name, drawn in pictures.items()}
    print(f"{len(prompts[:names])} names that no run was trained on, in the style {style}:")
    print(table(figures))
    if sheet is not None:
        write_sheet(pictures, wanted, prompts[:names], sheet)
        print(f"Base, LoRAs and the wanted drawing beside each other: {shlex.quote(str(sheet))}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="How well do LoRAs of an embedded style draw names they never saw?")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished runs of one style")
    parser.add_argument("--names", type=int, default=60, help="draw only the first so many of the 60 names")
    parser.add_argument("--sheet", type=Path, help=f"write the pictures of the first {_COLUMNS} names to this PNG")
    found = parser.parse_args(argv)
    if found.names < 1:
        parser.error(f"--names is {found.names}. It must be 1 or more.")
    return found


def cli() -> None:
    """The command line."""
    found = parse()
    run_command(lambda: main(found.runs, found.names, found.sheet))


if __name__ == "__main__":
    cli()
