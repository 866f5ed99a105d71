"""Uploaded pictures become a folder that the training script takes. What can't be used is left out and told."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from reslora_sd.diffusion.pictures import (
    CAPTIONS_FILE,
    HEIC,
    as_rgb,
    enable_heic,
    picture_kinds,
    unreadable_kind,
    upright,
)

from .captions import LONGEST, TABLES, read_captions
from .pictures import FORMATS, load

KINDS = (".png", ".jpg", ".jpeg", ".webp", *(HEIC if enable_heic() else ()))
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_SMALLER = ("L", "LA", "RGB", "RGBA")
"""Modes that can be made smaller without a loss of colours."""
MOST_FILES = 500
_MOST_TIMES_LONGER = 16
"""A picture's long side, of its short one."""
MOST_BYTES_EACH = 100_000_000
MOST_BYTES = 1_000_000_000
_MOST_PIXELS = 80_000_000
"""That are decoded; a phone's largest pictures have 50 million or 64."""
_KEPT_PIXELS = 2048 * 2048
"""Larger pictures are made smaller: no base model trains on more."""
_THUMBNAIL = 112


@dataclass(frozen=True)
class Picked:
    """A picture among the uploads that can be trained on."""

    path: Path
    name: str
    caption: str
    """That came with it; empty where none did."""
    thumbnail: str = field(default="", repr=False)
    """A data address."""

    @property
    def spoken(self) -> str:
        """`red-apple_2.png` says red apple."""
        return re.sub(r"[\W_\d]+", " ", Path(self.name).stem).strip() or "a picture"


def pick(files: Sequence[Path]) -> tuple[list[Picked], list[str]]:
    """The pictures that can be trained on, with their captions, and what was left out or changed, in words.

    Hidden files are left out and captions are first lines, as in folders (`reslora_sd.diffusion.survey`).
    """
    kept, notes = _usable([file for file in files if not file.name.startswith(".")])  # macOS leaves "._cat.jpg" about
    found: list[Picked] = []
    smaller: list[str] = []
    for file in kept:
        if file.suffix.lower() not in KINDS:
            continue
        try:
            image, size = _open(file)
        except ValueError as error:
            notes.append(f"{str(error).rstrip('.')}. It was left out.")
            continue
        if image.width * image.height < size[0] * size[1]:
            smaller.append(f"{file.name!r} ({size[0]} x {size[1]})")
        found.append(Picked(file, file.name, "", _thumbnail(image)))
    if smaller:
        more = f" and {len(smaller) - 1} more" if len(smaller) > 1 else ""
        notes.append(f"Made smaller, to 4 million pixels: {smaller[0]}{more}.")
    tables = [file for file in kept if file.suffix.lower() not in KINDS]
    captions, said = read_captions(tables, {one.name for one in found})
    pictures = [Picked(one.path, one.name, captions.get(one.name, ""), one.thumbnail) for one in found]
    return pictures, notes + said


def save_uploads(pictures: Sequence[Picked], folder: Path, caption: str, typed: Mapping[int, str]) -> None:
    """Writes every picture anew as PNG, and metadata.jsonl.

    Args:
        caption: of pictures that have none; empty for the file's own name.
        typed: captions by the place of their picture, before those that came with it.

    Raises:
        ValueError: there is no picture, or one is gone by now.
    """
    if not pictures:
        raise ValueError(f"There is no picture to train on. Upload {', '.join(KINDS)}.")
    folder.mkdir(parents=True)
    lines = []
    try:
        for number, (one, text) in enumerate(zip(pictures, texts(pictures, caption, typed), strict=True)):
            _open(one.path)[0].save(folder / f"{number:04d}.png")
            lines.append(json.dumps({"file_name": f"{number:04d}.png", "text": text}, ensure_ascii=False))
    except (ValueError, OSError):
        shutil.rmtree(folder)  # so that the name can be used again
        raise
    (folder / CAPTIONS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def texts(pictures: Sequence[Picked], caption: str, typed: Mapping[int, str]) -> list[str]:
    """What each picture is trained with."""
    common = " ".join(caption.split())[:LONGEST]
    own = [" ".join(typed.get(place, one.caption).split())[:LONGEST] for place, one in enumerate(pictures)]
    return [text or common or one.spoken for text, one in zip(own, pictures, strict=True)]


def _open(file: Path) -> tuple[Image.Image, tuple[int, int]]:
    """The picture upright, no larger than training needs, in a mode that PNG has, and its size as it was sent.

    Transparency stays (training puts it on white).

    Raises:
        ValueError: it can't be used; the message names it.
    """
    name = file.name
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{name!r} is not there any more. Upload it again.") from error
    image = load(data, name, (*FORMATS, "HEIF") if enable_heic() else FORMATS, _MOST_PIXELS, _KEPT_PIXELS)
    sent = image.info.get("sent", image.size)
    try:
        image = upright(image)
    except ValueError as error:
        raise ValueError(f"{name!r} can't be used: {error}.") from error
    if max(image.size) > _MOST_TIMES_LONGER * min(image.size):
        raise ValueError(
            f"{name!r} has {image.width} x {image.height} pixels: training would see a small part of it. Crop it first"
        )
    image = image if image.mode in _PNG_MODES else image.convert("RGB")
    share = math.sqrt(_KEPT_PIXELS / (image.width * image.height))
    if share < 1:
        image = image if image.mode in _SMALLER else as_rgb(image)
        image = image.resize((round(share * image.width), round(share * image.height)), Image.Resampling.LANCZOS)
    return image, sent


def _thumbnail(image: Image.Image) -> str:
    """A small WebP of it as a data address: it needs no file, and goes with the page."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    as_rgb(small).save(buffer, format="WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _usable(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Files of kinds and sizes that are taken, and a note for each of the others."""
    kept: list[Path] = []
    notes: list[str] = []
    for file, problem in _problems(files):
        if problem:
            notes.append(f"{problem} It was left out.")
        else:
            kept.append(file)
    return kept, notes


def _problems(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    names: set[str] = set()
    together = 0
    for file in files:
        end, size = file.suffix.lower(), file.stat().st_size if file.is_file() else 0
        problem = ""
        if end not in (*KINDS, ".txt", ".csv") and file.name not in TABLES:
            remedy = unreadable_kind(end) or ("save it as PNG or JPEG" if end in picture_kinds() else None)
            problem = f"{file.name!r} is of a kind that the page can't take ({remedy})." if remedy else ""
            problem = problem or f"{file.name!r} is no picture and no file of captions."
        elif file.name in names:
            problem = f"A second file is called {file.name!r}."
        elif size > MOST_BYTES_EACH:
            problem = f"{file.name!r} has {size / 1e6:.0f} MB. A file may have {MOST_BYTES_EACH / 1e6:.0f} MB."
        elif together + size > MOST_BYTES or len(names) >= MOST_FILES:
            problem = f"{file.name!r} is more than {MOST_FILES} files or {MOST_BYTES / 1e6:.0f} MB together."
        else:
            names.add(file.name)
            together += size
        yield file, problem
