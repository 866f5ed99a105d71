"""Made-up photos as people have them: of all sizes and shapes, turned by EXIF, CMYK, 16 bit, with captions beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIZES: Mapping[str, tuple[int, int]] = {
    "icon.png": (60, 60),
    "wall.jpg": (8000, 5000),
    "land.jpg": (1200, 800),
    "port.jpg": (800, 1200),
    "turned.jpg": (900, 600),
    "press.jpg": (640, 512),
    "deep.png": (700, 525),
    "scan.tiff": (600, 400),
    "pano.jpg": (1500, 300),
}
"""By file: the width and height that are stored."""
TURNED = ("turned.jpg", "scan.tiff")
"""Those whose EXIF tag stands them upright: they are shown at height x width."""


def upright(name: str) -> tuple[int, int]:
    """Width and height as shown."""
    width, height = SIZES[name]
    return (height, width) if name in TURNED else (width, height)


def make_photos(folder: Path, *names: str, captions: bool = True, smaller: int = 1) -> Path:
    """Writes these photos, or all, with a text file for each; their red rises from left to right.

    Args:
        smaller: divides their sides, for trainings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or SIZES:
        width, height = (side // smaller for side in SIZES[name])
        red = np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0)
        picture = Image.fromarray(np.stack([red, red // 2, red // 3], axis=-1))
        exif = Image.Exif()
        if name in TURNED:
            exif[0x0112] = 6
        if name == "press.jpg":
            picture = picture.convert("CMYK")
        if name == "deep.png":
            picture = Image.fromarray(red.astype(np.uint16) * 257)
        picture.save(folder / name, exif=exif)
        if captions:
            (folder / name).with_suffix(".txt").write_text(f"{name} of mine", encoding="utf-8")
    return folder
