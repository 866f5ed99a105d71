"""Uploaded pictures become a folder that the training script takes; what is too large or of another kind is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reslora_sd.diffusion.pictures import (
    CAPTIONS_FILE,
    HEIC,
    enable_heic,
    first_line,
    metadata_rows,
    picture_kinds,
    read_utf8,
    unreadable_kind,
    upright,
)

from .pictures import FORMATS, load

KINDS = (".png", ".jpg", ".jpeg", ".webp", *(HEIC if enable_heic() else ()))
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
MOST_FILES = 500
_MOST_TIMES_LONGER = 16
"""A picture's long side, of its short one."""
MOST_BYTES_EACH = 20_000_000
MOST_BYTES = 400_000_000


def save_uploads(files: Sequence[Path], folder: Path, caption: str) -> int:
    """Decodes every picture, writes it anew as PNG, and writes metadata.jsonl; gives how many there are.

    Hidden files are left out and captions are first lines, as in folders (`reslora_sd.diffusion.survey`).

    Args:
        caption: of pictures that neither an uploaded metadata.jsonl names nor a text file (`cat.txt` for `cat.png`);
            empty for the file's own name.

    Raises:
        ValueError: too many files, too large, two of a name, of another kind or damaged, or captions without a picture.
    """
    files = [file for file in files if not file.name.startswith(".")]  # macOS leaves "._cat.jpg" about
    _check(files)
    pictures = {file.name: file for file in files if file.suffix.lower() in KINDS}
    table = next((file for file in files if file.name == CAPTIONS_FILE), None)
    captions = _captions(table, set(pictures)) if table is not None else {}
    captions |= _beside([file for file in files if file.suffix.lower() == ".txt"], list(pictures))
    if not pictures:
        raise ValueError(f"There is no picture among the files. Upload {', '.join(KINDS)}.")
    images = [(name, _storable(file.read_bytes(), name)) for name, file in pictures.items()]
    folder.mkdir(parents=True)
    lines = []
    for number, (name, image) in enumerate(images):
        image.save(folder / f"{number:04d}.png")
        text = captions.get(name) or caption.strip() or _spoken(name)
        lines.append(json.dumps({"file_name": f"{number:04d}.png", "text": text}, ensure_ascii=False))
    (folder / CAPTIONS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(images)


def _storable(data: bytes, name: str) -> Image.Image:
    """The picture upright, in a mode that PNG has; transparency stays (training puts it on white)."""
    image = load(data, name, (*FORMATS, "HEIF") if enable_heic() else FORMATS)
    try:
        image = upright(image)
    except ValueError as error:
        raise ValueError(f"{name!r} can't be used: {error}.") from error
    if max(image.size) > _MOST_TIMES_LONGER * min(image.size):
        raise ValueError(
            f"{name!r} has {image.width} x {image.height} pixels: training would see a small part of it. Crop it, or "
            "leave it out."
        )
    return image if image.mode in _PNG_MODES else image.convert("RGB")


def _check(files: Sequence[Path]) -> None:
    if len(files) > MOST_FILES:
        raise ValueError(f"There are {len(files)} files. At most {MOST_FILES} can be uploaded; give a path instead.")
    other = [file.name for file in files if file.suffix.lower() not in (*KINDS, ".txt") and file.name != CAPTIONS_FILE]
    if other:
        end = Path(other[0]).suffix.lower()
        if remedy := unreadable_kind(end) or ("save them as PNG or JPEG" if end in picture_kinds() else None):
            raise ValueError(f"{other[0]!r} is of a kind that the page can't take ({remedy}).")
        raise ValueError(
            f"{other[0]!r} is no picture. Upload {', '.join(KINDS)}, and a {CAPTIONS_FILE} or .txt files for captions."
        )
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"There are two files {twice!r}. Give each a name of its own.")
    sizes = {file.name: file.stat().st_size for file in files}
    for name, size in sizes.items():
        if size > MOST_BYTES_EACH:
            raise ValueError(f"{name!r} has {size / 1e6:.0f} MB. A file may have {MOST_BYTES_EACH / 1e6:.0f} MB.")
    if sum(sizes.values()) > MOST_BYTES:
        raise ValueError(
            f"The files have {sum(sizes.values()) / 1e6:.0f} MB together, more than {MOST_BYTES / 1e6:.0f}."
        )


def _captions(table: Path, names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in metadata_rows(table, CAPTIONS_FILE):
        name, text = row["file_name"], row.get("text")
        if name not in names or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{CAPTIONS_FILE}, line {number}: {name!r} was not uploaded, or has no text.")
        found[name] = text
    return found


def _beside(texts: Sequence[Path], pictures: Sequence[str]) -> dict[str, str]:
    """Captions from text files that have the name of a picture."""
    found = {}
    for text in texts:
        names = [name for name in pictures if Path(name).stem == text.stem]
        words = first_line(read_utf8(text, repr(text.name)))
        if not names or not words:
            raise ValueError(f"{text.name!r} has the name of no uploaded picture, or is empty.")
        found.update(dict.fromkeys(names, words))
    return found


def _spoken(name: str) -> str:
    """`red-apple_2.png` says red apple."""
    words = re.sub(r"[\W_\d]+", " ", Path(name).stem).strip()
    return words or "a picture"
