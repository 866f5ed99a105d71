"""Real pictures of the data set whose caption is a validation prompt, to look at beside the drawn ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from ..runs.atomic import replacing
from ..runs.folder import RunFolder
from ..runs.names import OPENMOJI, STYLES
from .data import CaptionedImages
from .openmoji import openmoji_names, render
from .pictures import as_rgb
from .styles import UNSEEN, load_style


def save_reference_pictures(
    run: RunFolder, prompts: Sequence[str], images: CaptionedImages, kept_out: CaptionedImages | None, resolution: int
) -> None:
    """Writes `validation/real/*.png` and their `validation/real.jsonl`: prompt, file, and what saw the picture.

    `seen` is "training", "held out", or "neither" for a drawing of OpenMoji outside the sample that the run uses, or of
    a style whose other names the run doesn't measure.
    """
    rows: list[dict[str, Any]] = []
    folder = run.index_path.parent
    for number, prompt in enumerate(prompts):
        found = _find(prompt, images, kept_out, resolution)
        if found is None:
            continue
        picture, seen = found
        relative = f"real/{number:02d}.png"
        with replacing(folder / relative) as temporary:
            ImageOps.fit(as_rgb(picture), (resolution, resolution)).save(temporary, format="PNG")
        rows.append({"prompt": prompt, "file": relative, "seen": seen})
    with replacing(folder / "real.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _find(
    prompt: str, images: CaptionedImages, kept_out: CaptionedImages | None, resolution: int
) -> tuple[Image.Image, str] | None:
    wanted = _plain(prompt)
    for seen, data in (("training", images.subjects()), ("held out", kept_out)):
        for index, captions in enumerate(data.captions if data else []):
            if data and any(_plain(caption) == wanted for caption in captions):
                return data.image(index), seen
    if images.name == OPENMOJI:
        drawing = next((one for one in openmoji_names() if _plain(one.caption) == wanted), None)
        return (render(drawing.path, resolution), "neither") if drawing else None
    if images.name in STYLES:
        pairs = load_style(images.name, UNSEEN)
        return next(((picture, "neither") for picture, caption in pairs if _plain(caption) == wanted), None)
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
