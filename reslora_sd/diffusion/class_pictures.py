"""Pictures of the class that the base model draws where their folder has too few, as in diffusers' DreamBooth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from ..runs.atomic import replacing
from .data import load_split
from .drawing import draw_pictures
from .folders import parquet_files
from .models import Parts
from .order import mix
from .settings import DataSettings, UnetSettings
from .survey import Survey

if TYPE_CHECKING:
    from accelerate import Accelerator

_BATCH = 4
_BY = "prompt"
"""The entry of a drawn PNG that says by which words it was drawn."""


def check_class_folder(data: DataSettings) -> None:
    """Whether `--class_data_dir` can hold pictures that are drawn.

    Raises:
        ValueError: with `--class_prompt`, it has tables, whose rows aren't counted there; or it is a file.
    """
    if not data.class_prompt or not data.class_data_dir:
        return
    folder = Path(data.class_data_dir)
    packed = parquet_files(folder)
    if folder.exists() and not folder.is_dir() and not packed:
        raise ValueError(f"--class_data_dir {folder} is no folder. Name one for pictures of the class.")
    if not packed and folder.is_dir():
        survey = Survey(folder)
        packed = [] if survey.pictures else survey.shards
    if packed:
        raise ValueError(
            f"{packed[0]} is a table or tar file, and pictures that --class_prompt draws don't lie in one. Leave out "
            "--class_prompt to train on its pictures with their own captions, or name another --class_data_dir."
        )


def draw_class_pictures(settings: UnetSettings, parts: Parts, resolution: int, accelerator: Accelerator) -> None:
    """Fills `--class_data_dir` up to `--num_class_images`; nothing is done where they are there, or aren't asked for.

    Each drawn picture has a number, which with the run's seed decides its noise: what was stopped goes on with those
    that are missing. Several processes share the work. The pictures to learn are looked at before.

    Raises:
        ValueError: pictures in the folder were drawn by other words; or as `load_split`.
    """
    data = settings.data
    if not data.class_prompt or not data.class_data_dir:
        return
    folder = Path(data.class_data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    missing = missing_pictures(folder, data.class_prompt, data.class_pictures_wanted)
    if missing:
        load_split(settings, resolution, of_class=False)
    accelerator.wait_for_everyone()  # nobody counts what another process has drawn already
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    quiet = not accelerator.is_local_main_process
    with tqdm(total=len(mine), desc="Drawing pictures of the class", disable=quiet or not mine) as bar:
        for start in range(0, len(mine), _BATCH):
            for file, picture in _drawn(settings, parts, resolution, mine[start : start + _BATCH]).items():
                _save(picture, folder / file, data.class_prompt)
                bar.update()
    accelerator.wait_for_everyone()


def missing_pictures(folder: Path, prompt: str, wanted: int) -> list[int]:
    """The numbers of those to draw, so that the folder has as many pictures as are wanted.

    Raises:
        ValueError: earlier ones were drawn by other words.
    """
    files = Survey(folder).pictures
    drawn = {number: folder / name_of(number) for number in range(wanted) if (folder / name_of(number)).is_file()}
    for file in drawn.values():
        with Image.open(file) as image:
            before = image.info.get(_BY, prompt)
        if before != prompt:
            raise ValueError(
                f"{file} was drawn by --class_prompt {before!r:.100}, and now it is {prompt!r:.100}. Move it and its "
                "like elsewhere, or name another --class_data_dir."
            )
    others = sum(file not in drawn.values() for file in files)
    return [number for number in range(max(0, wanted - others)) if number not in drawn]


def name_of(number: int) -> str:
    """The file of a drawn picture."""
    return f"class-{number:05}.png"


@torch.no_grad()
def _drawn(settings: UnetSettings, parts: Parts, resolution: int, numbers: list[int]) -> dict[str, Any]:
    seed, how = settings.training.seed, settings.validation
    pictures = draw_pictures(
        parts.pipeline(),
        prompt=[settings.data.class_prompt] * len(numbers),
        generator=[torch.Generator("cpu").manual_seed(mix(seed, number)) for number in numbers],
        guidance_scale=how.validation_guidance_scale,
        num_inference_steps=how.validation_inference_steps,
        height=resolution,
        width=resolution,
    )
    return dict(zip(map(name_of, numbers), pictures, strict=True))


def _save(picture: Image.Image, file: Path, prompt: str) -> None:
    said = PngInfo()
    said.add_itxt(_BY, prompt)
    with replacing(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=said)
