"""Masks: which parts of a picture its loss counts. A file for each picture, or its alpha channel. No torch."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .captioned import CaptionedImages
from .pictures import has_alpha, upright
from .survey import Survey

logger = logging.getLogger("reslora_sd")


def find_masks(folder: Path, files: Sequence[str | None], root: Path) -> dict[str, str]:
    """For each picture of a source that has one, the mask of its name.

    It lies below `folder` as the picture below `root`. Elsewhere it is found by its name alone, if no other mask and no
    other picture has this name. The ends of names don't count: `masks/cat.png` is that of `photos/cat.jpg`.

    Args:
        files: all pictures of the source, so that none is taken for another's only one.

    Raises:
        ValueError: the folder isn't there, has no mask of any of them, or two of one; or pictures aren't files.
    """
    if not folder.is_dir():
        raise ValueError(f"The masks' folder {folder} isn't there. Give one with a mask for each picture, of its name.")
    if None in files:
        raise ValueError(
            f"The pictures of {root} lie in tables or tar files, and {folder} can have no masks of their names."
        )
    masks = Survey(folder).pictures
    placed, named = _by(masks, lambda file: _place(file, folder)), _by(masks, lambda file: file.stem)
    base = root if root.is_dir() else root.parent
    pictures = [Path(file) for file in dict.fromkeys(map(str, files))]
    alike = Counter(stem for stem, _ in {(file.stem, _place(file, base)) for file in pictures})
    found, unclear = dict[str, str](), list[tuple[Path, list[Path]]]()
    for file in pictures:
        own, others = placed.get(_place(file, base), []), named.get(file.stem, [])
        if len(own) > 1:
            raise ValueError(f"{own[0]} and {own[1]} are both masks of {file}. Keep one of them there.")
        if own or (len(others) == 1 and alike[file.stem] == 1):
            found[str(file)] = str((own or others)[0])
        elif others:
            unclear.append((file, others))
    if unclear:
        (file, others), count = unclear[0], len(unclear)
        logger.warning(
            "%d pictures count as a whole, as their names alone don't say which mask is theirs: %s could have %s. Give "
            "masks the places in %s that pictures have in %s.",
            *(count, file, others[0], folder, base),
        )
    if not found:
        first = os.path.splitext(os.path.basename(str(files[0])))[0]
        raise ValueError(f"{folder} has no mask of any picture of {root}. That of {files[0]} would be {first}.png.")
    return found


def _by(files: Sequence[Path], name: Callable[[Path], str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(name(file), []).append(file)
    return found


def _place(file: Path, folder: Path) -> str:
    """Where it lies as seen from a folder, without the end of its name."""
    return os.path.splitext(Path(os.path.relpath(file, folder)).as_posix())[0]


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


def check_masks(images: CaptionedImages, others: Sequence[CaptionedImages | None], found: bool) -> int:
    """How many pictures have a mask; one without an alpha channel or a mask of its own counts as a whole.

    Args:
        others: the parts that are kept out.
        found: whether `find_masks` has found some, maybe of pictures that aren't taken.

    Raises:
        ValueError: none has one.
    """
    count, *apart = (_masked(part) for part in (images, *others) if part is not None)
    if not (found or count or any(apart)):
        raise ValueError(
            f"--masked_loss: no picture of {images.name} has a mask. Name their folder with --mask_data_dir (in a "
            "--dataset_config: 'mask'), or save pictures with an alpha channel."
        )
    return count


def _masked(images: CaptionedImages) -> int:
    return sum(file is not None or images.has_alpha(index) for index, file in enumerate(images.masks))


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
