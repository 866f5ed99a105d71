"""Try it as a grid: which pictures belong into it, how it is put together, and how it is saved. No torch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from io import BytesIO

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from reslora_sd.diffusion.contact_sheet import fitted
from reslora_sd.runs.names import BASE

from .draw_request import DrawRequest
from .grids import FORMATS, text_font

STRENGTH, SEED, PROMPT, RUN, NOTHING = "strength", "seed", "prompt", "run", "nothing"
AXES = (STRENGTH, SEED, PROMPT, RUN, NOTHING)
_OF_BASE = (SEED, PROMPT)
"""Axes that change what the base model draws."""
MOST_VALUES, MOST_PICTURES = 12, 64
_CELL, _GAP, _INK, _FAINT, _EMPTY = 192, 4, "#1c1917", "#57534e", "#e7e5e4"


@dataclass(frozen=True)
class Cell:
    """One picture. `run` is a run's or a LoRA file's name, or `BASE`, which a run may be called too."""

    run: str
    strength: float
    seed: int
    prompt: str
    is_base: bool = False

    def request(self, common: DrawRequest) -> DrawRequest:
        """What to draw, with the settings that all pictures share."""
        return replace(common, prompt=self.prompt, seed=self.seed, strength=self.strength)

    @property
    def base(self) -> Cell:
        """The base model's picture beside it."""
        return Cell(BASE, 1.0, self.seed, self.prompt, is_base=True)


@dataclass(frozen=True)
class GridPlan:
    """A grid of columns (X), rows (Y) and bands of rows (Z).

    Raises:
        ValueError: two axes are the same, an axis has too many values, several values have no axis, or there are too
            many pictures.
    """

    x: str
    y: str
    z: str
    strengths: tuple[float, ...]
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    runs: tuple[str, ...]
    step: int | None = None
    """Of the runs' checkpoints."""

    def __post_init__(self) -> None:
        axes = [axis for axis in (self.x, self.y, self.z) if axis != NOTHING]
        if len(set(axes)) < len(axes) or not set(axes) <= set(AXES):
            raise ValueError(f"The axes are {', '.join(axes)}. Each must be another of {', '.join(AXES)}.")
        for axis in AXES[:-1]:
            found = self.values(axis)
            if not found:
                raise ValueError(
                    f"There is no {axis}. {'Tick a run, or choose a LoRA file' if axis == RUN else 'Type one'}."
                )
            if len(found) > MOST_VALUES:
                raise ValueError(f"There are {len(found)} values of {axis}. There may be {MOST_VALUES}.")
            if len(found) > 1 and axis not in axes:
                raise ValueError(
                    f"There are {len(found)} values of {axis}, and no axis for them. Choose one, or leave one."
                )
        for strength, seed, prompt in itertools.product(self.strengths, self.seeds, self.prompts):
            DrawRequest(prompt, seed=seed, strength=strength)  # refuses what can't be drawn, before anything is
        if len(self.cells) > MOST_PICTURES:
            raise ValueError(f"The grid has {len(self.cells)} pictures. It may have {MOST_PICTURES}.")

    def values(self, axis: str) -> tuple[object, ...]:
        """The values of an axis; one that says nothing for no axis."""
        found = {STRENGTH: self.strengths, SEED: self.seeds, PROMPT: self.prompts, RUN: self.runs}
        return tuple(found.get(axis, ("",)))

    def cell(self, x: object, y: object, z: object) -> Cell:
        """The picture at a place."""
        place = {self.x: x, self.y: y, self.z: z}
        run, strength, seed, prompt = (place.get(axis, self.values(axis)[0]) for axis in (RUN, STRENGTH, SEED, PROMPT))
        return Cell(str(run), float(str(strength)), int(str(seed)), str(prompt))

    @property
    def cells(self) -> list[Cell]:
        """All pictures, each once, in the order in which they are drawn: a row at a time, base first."""
        found = []
        for z, y in itertools.product(self.values(self.z), self.values(self.y)):
            row = [self.cell(x, y, z) for x in self.values(self.x)]
            found += [*(cell.base for cell in row), *row]
        return list(dict.fromkeys(found))


def numbers(text: str, kind: Callable[[str], float], what: str) -> tuple[float, ...]:
    """The numbers of a field, parted by commas or spaces.

    Raises:
        ValueError: a part is none.
    """
    try:
        found = tuple(kind(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"The field {what} holds {text!r:.60}. Type numbers with commas between them.") from error
    if not all(math.isfinite(one) for one in found):
        raise ValueError(f"The field {what} holds {text!r:.60}, with a number that is none.")
    return tuple(dict.fromkeys(found))


Pictures = dict[Cell, "Image.Image | str"]
"""By their place; a text says why one can't be drawn."""


def sheet(plan: GridPlan, pictures: Pictures, only: object = None) -> Image.Image:
    """The grid so far: base in the first column of each row, and what isn't drawn yet is empty.

    Args:
        only: one value of X, whose column is then the only one beside base's.
    """
    columns = [only] if only is not None else list(plan.values(plan.x))
    rows = _rows(plan)
    bases = 0 if any(is_base for _, is_base in rows) else 1
    line, left, top, band = _CELL + _GAP, 170 if plan.y != NOTHING else 12, 34, 30 if plan.z != NOTHING else 0
    height = top + len(plan.values(plan.z)) * (band + len(rows) * line) + 8
    image = Image.new("RGB", (left + (len(columns) + bases) * line + 12, height), "white")
    pen = ImageDraw.Draw(image)
    for place, label in enumerate([*[BASE] * bases, *(_label(plan.x, value) for value in columns)]):
        text = fitted(label, _CELL, text_font(14))
        pen.text((left + place * line + _CELL / 2, 10), text, _FAINT, text_font(14), anchor="ma")
    y = top
    for third in plan.values(plan.z):
        if band:
            text = fitted(_label(plan.z, third), image.width - 24, text_font(15))
            pen.text((12, y + 6), text, _INK, text_font(15))
            y += band
        for row, is_base in rows:
            named = ", ".join([BASE] * is_base + [_label(plan.y, row)] * (not is_base or plan.y in _OF_BASE))
            text = fitted(named, left - 16, text_font(14))
            if plan.y != NOTHING or is_base:
                pen.text((left - 10, y + _CELL / 2), text, _INK, text_font(14), anchor="rm")
            cells = [plan.cell(x, row, third) for x in columns]
            shown = [cells[0].base, *cells] if bases else [cell.base for cell in cells] if is_base else cells
            for place, cell in enumerate(shown):
                _paste(image, pen, pictures.get(cell), (left + place * line, y))
            y += line
    return image


def _rows(plan: GridPlan) -> list[tuple[object, bool]]:
    """The values of Y, and whether a row is the base model's: one above all, or above each that changes its pictures.

    There is none where the columns don't change them: then base has a column.
    """
    rows = plan.values(plan.y)
    if plan.x not in _OF_BASE:
        return [(row, False) for row in rows]
    if plan.y in _OF_BASE:
        return [(row, is_base) for row in rows for is_base in (True, False)]
    return [(rows[0], True), *((row, False) for row in rows)]


def _label(axis: str, value: object) -> str:
    return "" if axis == NOTHING else str(value) if axis == RUN else f"{axis} {value}"


def _paste(
    image: Image.Image, pen: ImageDraw.ImageDraw, one: Image.Image | str | None, corner: tuple[int, int]
) -> None:
    if isinstance(one, Image.Image):
        size = [max(1, round(length * _CELL / max(one.size))) for length in one.size]
        how = Image.Resampling.LANCZOS if _CELL % max(one.size) else Image.Resampling.NEAREST
        image.paste(one.resize(size, how), corner)
        return
    pen.rectangle((*corner, corner[0] + _CELL - 1, corner[1] + _CELL - 1), _EMPTY)
    if one:
        words = fitted(one, 6 * _CELL, text_font(12))
        lines = [words[start : start + 26] for start in range(0, min(len(words), 180), 26)]
        pen.multiline_text((corner[0] + 6, corner[1] + 6), "\n".join(lines), _INK, text_font(12))


def saved(plan: GridPlan, pictures: Pictures, common: DrawRequest, form: str) -> bytes:
    """The grid as PNG with its settings in the metadata, or its columns one after the other as GIF or WebP.

    Raises:
        ValueError: there is no such form.
    """
    buffer = BytesIO()
    if form == "PNG":
        shared = {name: value for name, value in asdict(common).items() if name not in (PROMPT, SEED, STRENGTH)}
        about = PngInfo()
        about.add_itxt("parameters", json.dumps({**shared, **asdict(plan)}, ensure_ascii=False))
        sheet(plan, pictures).save(buffer, format="PNG", pnginfo=about)
        return buffer.getvalue()
    if form not in FORMATS:
        raise ValueError(f"The form is {form!r:.20}. It must be PNG, {' or '.join(FORMATS)}.")
    frames = [sheet(plan, pictures, value) for value in plan.values(plan.x)]
    if form == "GIF":
        frames = [one.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for one in frames]
    more: dict[str, object] = {"save_all": True, "append_images": frames[1:], "duration": 700, "loop": 0}
    frames[0].save(buffer, format=FORMATS[form].upper(), **more)
    return buffer.getvalue()


def split_lines(text: str) -> tuple[str, ...]:
    """The prompts of a field, one a line."""
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
