"""Masks: which parts of a picture its loss counts. A file for each picture, or its alpha channel. No torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .captioned import CaptionedImages
from .pictures import has_alpha, upright
from .survey import Survey


def find_masks(folder: Path, files: Sequence[str | None], root: Path) -> list[str | None]:
    """For each picture, the mask of its name: where it lies below `folder` as the picture below `root`, else anywhere.

    The ends of names don't count: `masks/cat.png` is that of `photos/cat.jpg`.

    Raises:
        ValueError: the folder isn't there, has no mask of any of them, or pictures aren't files.
    """
    if not folder.is_dir():
        raise ValueError(f"The masks' folder {folder} isn't there. Give one with a mask for each picture, of its name.")
    if None in files:
        raise ValueError(f"The pictures of {root} lie in tables, and {folder} can have no masks of their names.")
    pictures = Survey(folder).pictures
    placed = {os.path.splitext(file.relative_to(folder).as_posix())[0]: str(file) for file in pictures}
    named = {file.stem: str(file) for file in reversed(pictures)}
    base = root if root.is_dir() else root.parent
    found: list[str | None] = []
    for file in map(str, files):
        place = os.path.splitext(Path(os.path.relpath(file, base)).as_posix())[0]
        found.append(placed.get(place) or named.get(Path(file).stem))
    if not any(found):
        first = os.path.splitext(os.path.basename(str(files[0])))[0]
        raise ValueError(f"{folder} has no mask of any picture of {root}. That of {files[0]} would be {first}.png.")
    return found


def mask_of(images: CaptionedImages, index: int, picture: Image.Image) -> Image.Image | None:
    """The mask of a picture, upright, 8 bits, white where it counts; `None` where it counts as a whole.

    Args:
        picture: as it was stored.

    Raises:
        ValueError: the mask can't be read, is all black, or has another shape than the picture.
    """
    file, picture = images.masks[index], upright(picture)
    mask = _alpha(picture) if file is None else _read(file)
    what = (
        f"The mask {file}" if file else f"The alpha channel of picture {index} of {images.name}{images.places[index]}"
    )
    if mask is None:
        return None
    if not mask.getextrema()[1]:
        raise ValueError(f"{what} is black, so that nothing of the picture counts. Take out the picture, or its mask.")
    (width, height), size = mask.size, picture.size
    if abs(width * size[1] - height * size[0]) > max(*mask.size, *size):
        raise ValueError(
            f"{what} is {width}x{height}, and its picture {size[0]}x{size[1]}. Save it in the picture's shape."
        )
    return mask


def check_masks(images: CaptionedImages) -> int:
    """How many pictures have a mask; one without an alpha channel or a mask of its own counts as a whole.

    Raises:
        ValueError: none has one.
    """
    count = sum(file is not None or images.has_alpha(index) for index, file in enumerate(images.masks))
    if not count:
        raise ValueError(
            f"--masked_loss: no picture of {images.name} has a mask. Name their folder with --mask_data_dir (in a "
            "--dataset_config: 'mask'), or save pictures with an alpha channel."
        )
    return count


def _read(file: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return _grey(image)
    except Exception as error:  # Pillow's decoders raise many kinds; each is about this file
        raise ValueError(
            f"The mask {file} can't be read: {str(error) or type(error).__name__}. Save it anew."
        ) from error


def _grey(mask: Image.Image) -> Image.Image:
    mask = upright(mask)
    if mask.mode.startswith("I;16"):
        mask = Image.fromarray((np.asarray(mask) // 257).astype(np.uint8))
    if has_alpha(mask):  # what is clear doesn't count
        mask = mask.convert("RGBA")
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask)
    return mask.convert("L")


def _alpha(image: Image.Image) -> Image.Image | None:
    return image.convert("RGBA").getchannel("A") if has_alpha(image) else None
