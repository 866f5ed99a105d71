"""Validation pictures: the same prompts and seeds at every step and for every method, so that they compare."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from ..modes import evaluating
from ..runs.atomic import replacing
from ..runs.folder import RunFolder
from ..runs.names import BASE, SHEET_FILES, UNMERGED
from .batches import Batch
from .contact_sheet import Row, contact_sheet
from .data import CaptionedImages
from .drawing import draw_pictures
from .loss import diffusion_loss
from .precision import own_forward
from .settings import UnetSettings

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, StableDiffusionPipeline

logger = logging.getLogger(__name__)
_BATCH = 8


@torch.no_grad()
def validation_loss(unet: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch]) -> float:
    """Mean loss on pictures that training doesn't see, with the same noise each time; the U-Net in eval mode."""
    weight = next(unet.parameters())
    losses = []
    with evaluating(unet), own_forward(unet):
        for batch in batches:
            batch = batch.to(weight.device, weight.dtype)
            given = (batch.latents, batch.conditioning, batch.noise, batch.timesteps)
            losses.append(diffusion_loss(unet, scheduler, *given, weights=batch.weights).item())
    return sum(losses) / len(losses)


@dataclass(frozen=True)
class Validation:
    """What is drawn, and how."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    """One picture for each prompt and seed."""
    negative_prompt: str = ""
    guidance_scale: float = 7.5
    inference_steps: int = 25
    resolution: int = 512
    starts_from_base: bool = True
    """Whether the run's adapter changes nothing at step 0; one that starts from a LoRA does."""

    @torch.no_grad()
    def draw(self, pipeline: StableDiffusionPipeline) -> list[Image.Image]:
        """Pictures in the order of prompts, then seeds. The U-Net is in eval mode for the time."""
        wanted = [(prompt, seed) for prompt in self.prompts for seed in self.seeds]
        pictures: list[Image.Image] = []
        with _evaluating_all(pipeline), own_forward(pipeline.unet):
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                pictures += draw_pictures(
                    pipeline,
                    prompt=[prompt for prompt, _ in batch],
                    # without one, each model's pipeline knows what to do: SDXL's takes zeros
                    negative_prompt=[self.negative_prompt] * len(batch) if self.negative_prompt else None,
                    generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in batch],
                    guidance_scale=self.guidance_scale,
                    num_inference_steps=self.inference_steps,
                    height=self.resolution,
                    width=self.resolution,
                )
        return pictures

    def drawn_at_first(self, run: RunFolder) -> list[Image.Image] | None:
        """The base model's pictures: those of step 0, when the adapter changed nothing; `None` where one is missing.

        Only pictures of these very settings, and as they were written, are taken.
        """
        if not self.starts_from_base:
            return None
        how = self._how()
        rows = {
            (row["prompt"], row["seed"]): row
            for row in run.pictures()
            if row["step"] == 0 and row["merge_approach"] == UNMERGED and how.items() <= row.items()
        }
        pictures = []
        for key in ((prompt, seed) for prompt in self.prompts for seed in self.seeds):
            picture = _open(run, rows.get(key))
            if picture is None or hashlib.sha256(picture.tobytes()).hexdigest() != rows[key]["sha256"]:
                return None
            if picture.size != (self.resolution, self.resolution):
                return None
            pictures.append(picture)
        return pictures

    def _how(self) -> dict[str, Any]:
        """What all rows of the index share."""
        return {
            "negative_prompt": self.negative_prompt,
            "guidance_scale": self.guidance_scale,
            "inference_steps": self.inference_steps,
        }

    def save(self, pictures: Sequence[Image.Image], run: RunFolder, step: int, approach: str) -> None:
        """Writes pictures and their index rows, and warns of pictures that equal those of an earlier step.

        Those of the base model don't change, so they may.
        """
        before = {(row["prompt"], row["seed"], row["merge_approach"]): row for row in run.pictures()}
        wanted = [(number, prompt, seed) for number, prompt in enumerate(self.prompts) for seed in self.seeds]
        repeated = 0
        for (number, prompt, seed), picture in zip(wanted, pictures, strict=True):
            row = run.add_picture(
                picture,
                step,
                f"{approach}-{number:02d}-{seed}.png",
                prompt=prompt,
                seed=seed,
                merge_approach=approach,
                **self._how(),
            )
            earlier = before.get((prompt, seed, approach))
            repeated += earlier is not None and earlier["step"] != step and earlier["sha256"] == row["sha256"]
        if repeated and approach != BASE:
            logger.warning(
                "%d of %d validation pictures of step %d equal those of an earlier step to the last pixel: the adapter "
                "may not be active, or doesn't learn.",
                repeated,
                len(pictures),
                step,
            )


@contextmanager
def _evaluating_all(pipeline: Any) -> Iterator[None]:
    """The U-Net and the text encoders, which may be trained too, in eval mode."""
    encoders = (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None))
    with ExitStack() as stack:
        for model in (pipeline.unet, *(encoder for encoder in encoders if encoder is not None)):
            stack.enter_context(evaluating(model))
        yield


def validation_of(
    settings: UnetSettings, images: CaptionedImages, steps_of_epoch: int, resolution: int
) -> tuple[Validation | None, int]:
    """What to draw, and every how many steps to draw and to measure; 0 for never."""
    validation = settings.validation
    every = validation.validation_steps or (validation.validation_epochs or 0) * steps_of_epoch
    prompts = [*(validation.validation_prompts or []), *images.some_captions(validation.validation_captions)]
    if not (prompts and validation.num_validation_images):
        return None, every
    return as_a_run_draws(settings, tuple(dict.fromkeys(prompts)), resolution, validation.num_validation_images), every


def as_a_run_draws(settings: UnetSettings, prompts: Sequence[str], resolution: int, count: int = 1) -> Validation:
    """These prompts, drawn as the validation pictures of a run with these settings; `count` pictures of each."""
    return Validation(
        prompts=tuple(prompts),
        seeds=tuple(settings.training.seed + number for number in range(count)),
        negative_prompt=settings.validation.validation_negative_prompt,
        guidance_scale=settings.validation.validation_guidance_scale,
        inference_steps=settings.validation.validation_inference_steps,
        resolution=resolution,
        starts_from_base=settings.method.init_lora is None,
    )


def save_sheets(run: RunFolder, approach: str) -> None:
    """Writes `validation/steps.png` (prompts by steps, unmerged) and, of the last step, `validation/merged.png`."""
    rows = run.pictures()
    if not rows:
        return
    last = max(row["step"] for row in rows)
    steps = sorted({row["step"] for row in rows if row["merge_approach"] == UNMERGED})
    kinds = [kind for kind in (BASE, UNMERGED, approach) if any(row["merge_approach"] == kind for row in rows)]
    by_step = {(row["prompt"], row["seed"], row["step"]): row for row in rows if row["merge_approach"] == UNMERGED}
    by_kind = {(row["prompt"], row["seed"], row["merge_approach"]): row for row in rows if row["step"] == last}
    drawn = list(dict.fromkeys((row["prompt"], row["seed"]) for row in rows))
    for name, table, keys in zip(SHEET_FILES, (by_step, by_kind), (steps, kinds), strict=True):
        lines = []
        for prompt, seed in drawn:
            pictures = [_open(run, table.get((prompt, seed, key))) for key in keys]
            found = [picture for picture in pictures if picture is not None]
            if len(found) == len(keys):
                lines.append(Row(found, label=prompt))
        if not lines:
            continue
        sheet = contact_sheet(lines, [str(key) for key in keys], scale=2 if lines[0].pictures[0].width <= 96 else 1)
        with replacing(run.path / name) as temporary:
            sheet.save(temporary, format="PNG")


def _open(run: RunFolder, row: dict[str, Any] | None) -> Image.Image | None:
    """The picture of a row of the index; `None` for no row. One that can't be opened is told, and is `None`, too."""
    if row is None:
        return None
    try:
        with Image.open(run.index_path.parent / row["file"]) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three for damaged files
        logger.warning("%s can't be opened for a sheet: %s", row["file"], error)
        return None
