"""Makes the embedded styles: drawings that the base model knows, restyled by a filter, for the demo.

    python -m reslora_sd.pretrain.make_styles --data_dir DATA --output_dir reslora_sd/assets/styles

A style maps lightness to colour, on paper of its own: shapes stay as they are. Each has 60 drawings to train on, whose
captions are the plain names, and the wanted drawings of 60 other names, so that what a LoRA of the style draws of a
name that it never saw can be compared with what it should draw. The same data give the same files.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from ..diffusion.pictures import CAPTIONS_FILE
from ..runs.atomic import replacing
from ..runs.names import DEFAULT_PROMPTS, STYLES
from ..training.command import run_command
from ..training.options import check_at_least, option
from ..training.parser import SettingsParser
from .data import Drawings, load_drawings
from .restyle import Style, restyle

_LEFT_OUT = re.compile(
    r"\b(adult|arrow|baby|balloon|boy|bubble|button|child|clock|clockwise|couple|deaf|detective|diamond|elf|fairy|"
    r"family|fingers?|fist|flag|genie|girl|guard|hands?|hearts?|index|input|japanese|kiss|mages?|man|mark|medal|men|"
    r"mermaid|merman|merperson|moon|mx|ninja|o.clock|officer|older|palms?|people|person|prince|princess|santa|claus|"
    r"sign|speech|square|circle|superhero|supervillain|symbol|thirty|thumbs|vampire|woman|women|worker|zombie|face)\b"
)
"""Names with one of these words are left out: people and signs, whose many variants a small model can't tell apart."""


FILTERS = {
    "gold": Style(
        (16, 14, 20), ((0, (70, 38, 10)), (0.3, (150, 92, 24)), (0.65, (232, 176, 64)), (1, (255, 244, 196)))
    ),
    "sunset": Style(
        (48, 16, 72), ((0, (110, 20, 100)), (0.35, (214, 50, 110)), (0.7, (255, 140, 80)), (1, (255, 228, 150)))
    ),
}


@dataclass(frozen=True)
class StyleSettings:
    """Where drawings come from, and where the styles go."""

    _argument_group_name: ClassVar[str] = "styles"

    data_dir: str = option("", "Captioned drawings with the set that the base model draws; must be given.")
    output_dir: str = option("runs/styles", "A folder for each style is made in it.")
    set: str = option("fluent", "The set of DATA_DIR that is restyled.")
    pictures: int = option(60, "Drawings to train on, and wanted drawings of other names; so many of each.")
    size: int = option(64, "Pixels of a side.")
    seed: int = option(0, "Decides which names train.")

    def __post_init__(self) -> None:
        if not self.data_dir:
            raise ValueError("--data_dir is missing. Name the folder of captioned drawings.")
        check_at_least(self, 1, ["pictures", "size"])


def pick_names(captions: Sequence[str], count: int, seed: int) -> tuple[list[int], list[int]]:
    """(drawings that train, drawings of other names), by their place in `captions`, `count` of each.

    The default prompts are never trained: they come first among the others, where there are drawings of them.

    Raises:
        ValueError: there are too few names.
    """
    places = {caption: place for place, caption in reversed(list(enumerate(captions)))}
    prompts = [places[prompt] for prompt in DEFAULT_PROMPTS if prompt in places]
    rest = sorted(name for name in places if name not in DEFAULT_PROMPTS and not _LEFT_OUT.search(name.lower()))
    random.Random(seed).shuffle(rest)
    if len(prompts) + len(rest) < 2 * count:
        raise ValueError(
            f"There are drawings of {len(prompts) + len(rest)} names, but --pictures {count} needs {2 * count}. "
            "Lower --pictures."
        )
    order = [places[name] for name in rest]
    unseen = (prompts + order[count:])[:count]
    return order[:count], unseen


def write_style(folder: Path, style: Style, drawings: Drawings, parts: dict[str, Sequence[int]]) -> None:
    """A folder of pictures and their metadata for each part of a style."""
    for part, rows in parts.items():
        lines = []
        for number, row in enumerate(rows):
            picture = restyle(Image.fromarray(drawings.pictures[row].permute(1, 2, 0).numpy()), style)
            name = f"{number:02d}.png"
            with replacing(folder / part / name) as temporary:  # few colours: half the bytes, and none is missed
                picture.quantize(128, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)
            lines.append(json.dumps({"file_name": name, "text": drawings.captions[row]}, ensure_ascii=False) + "\n")
        with replacing(folder / part / CAPTIONS_FILE) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def main(settings: StyleSettings) -> None:
    """All styles."""
    drawings = load_drawings(settings.data_dir, settings.size, only_sets=[settings.set])
    trained, unseen = pick_names(drawings.captions, settings.pictures, settings.seed)
    for name in STYLES:
        folder = Path(settings.output_dir) / name
        write_style(folder, FILTERS[name], drawings, {"train": trained, "unseen": unseen})
        print(f"{folder}: {len(trained)} drawings to train on, {len(unseen)} of other names")


def parse_settings(argv: Sequence[str] | None = None) -> StyleSettings:
    """The command line and its `--config`.

    Raises:
        ValueError: a value is invalid.
    """
    found: tuple[Any, ...] = SettingsParser([StyleSettings], "Makes the embedded styles.").parse(argv)
    settings: StyleSettings = found[0]
    return settings


def cli() -> None:
    """The command line."""
    run_command(lambda: main(parse_settings()))


if __name__ == "__main__":
    cli()
