"""Renders icon sets as captioned drawings, for pretraining.

    npm install @iconify-json/fluent-emoji-flat @iconify-json/noto-v1
    python -m reslora_sd.pretrain.make_drawings --known DATA --output_dir DATA \
      --icons fluent=node_modules/@iconify-json/fluent-emoji-flat noto-v1=node_modules/@iconify-json/noto-v1

An Iconify package holds one `icons.json`: SVG bodies by name. Of each set those are taken that are emoji by their name;
OUTPUT_DIR gets a parquet file of each, with the columns of other drawings: `image`, `text`, `codepoint`, `set`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..diffusion.openmoji import openmoji_names, render_svg
from ..runs.atomic import replacing
from ..training.command import run_command
from ..training.options import check_at_least, option
from ..training.parser import SettingsParser
from .data import load_drawings


@dataclass(frozen=True)
class IconSettings:
    """Which icons become drawings, and where they go."""

    _argument_group_name: ClassVar[str] = "icons"

    icons: list[str] = option([], "SET=FOLDER for each set: the folder of its Iconify package.", nargs="*")
    output_dir: str = option("", "SET-more.parquet of each set is written here; must be given.")
    known: str | None = option(None, "Folder of drawings: their captions are kept, what they have isn't drawn again.")
    size: int = option(64, "Pixels of a side.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("--output_dir is missing. Name the folder that the drawings go to.")
        if not self.icons:
            raise ValueError(
                "--icons is missing. Name sets and their folders, such as noto=node_modules/@iconify-json/noto."
            )
        for entry in self.icons:
            if not all(entry.partition("=")[::2]):
                raise ValueError(
                    f"--icons has {entry!r}. Write SET=FOLDER, such as noto=node_modules/@iconify-json/noto."
                )
        check_at_least(self, 1, ["size"])


@dataclass(frozen=True)
class Known:
    """The drawings that there are."""

    captions: Mapping[str, str]
    """By code point."""
    drawn: frozenset[tuple[str, str]]
    """(set, code point)."""


def read_known(folder: str | None, size: int) -> Known:
    """What a folder of drawings has; nothing without a folder."""
    if folder is None:
        return Known({}, frozenset())
    drawings = load_drawings(folder, size)
    entries = list(zip(drawings.sets, drawings.names, strict=True))
    return Known(dict(zip(drawings.names, drawings.captions, strict=True)), frozenset(entries))


def icon_name(caption: str) -> str:
    """How an icon set writes a name: "o'clock!" is `oclock`."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub("['\u2019]", "", caption.lower())).strip("-")


def read_icons(folder: Path) -> dict[str, str]:
    """SVG text by name of an Iconify package, hidden icons and aliases left out.

    Raises:
        FileNotFoundError: the folder has no icons.json.
        ValueError: the file isn't one of Iconify's.
    """
    file = folder / "icons.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no icons.json. Name the folder of an Iconify package.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        default = (data.get("width", 16), data.get("height", 16))
        return {
            name: _svg(icon["body"], icon.get("width", default[0]), icon.get("height", default[1]))
            for name, icon in data["icons"].items()
            if not icon.get("hidden")
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} isn't an icon set of Iconify ({error!r}). Install the package again.") from error


def _svg(body: str, width: float, height: float) -> str:
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} viewBox="0 0 {width} {height}">{body}</svg>'


def drawn_rows(group: str, icons: Mapping[str, str], known: Known, size: int) -> list[dict[str, Any]]:
    """Parquet rows of the icons that are emoji and that `known` has no drawing of, by code point."""
    names = {emoji.code_point.lower(): emoji.caption for emoji in openmoji_names()} | dict(known.captions)
    rows = []
    for code, caption in sorted(names.items()):
        drawing = icons.get(icon_name(caption))
        if drawing is None or (group, code) in known.drawn:
            continue
        file = io.BytesIO()
        render_svg(drawing, size).save(file, "PNG", optimize=True)
        rows.append(
            {"image": {"bytes": file.getvalue(), "path": None}, "text": caption, "codepoint": code, "set": group}
        )
    return rows


def main(settings: IconSettings) -> None:
    """All sets."""
    import pyarrow
    import pyarrow.parquet

    known = read_known(settings.known, settings.size)
    made = {}
    for entry in settings.icons:
        group, _, folder = entry.partition("=")
        made[group] = drawn_rows(group, read_icons(Path(folder)), known, settings.size)
    for group, rows in made.items():
        target = Path(settings.output_dir) / f"{group}-more.parquet"
        if rows:
            with replacing(target) as temporary:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)
        print(f"{target}: {len(rows)} drawings" if rows else f"{group}: no new drawing")


def parse_settings(argv: Sequence[str] | None = None) -> IconSettings:
    """The command line and its `--config`.

    Raises:
        ValueError: a value is invalid.
    """
    found: tuple[Any, ...] = SettingsParser([IconSettings], "Renders icon sets as captioned drawings.").parse(argv)
    settings: IconSettings = found[0]
    return settings


def cli() -> None:
    """The command line."""
    run_command(lambda: main(parse_settings()))


if __name__ == "__main__":
    cli()
