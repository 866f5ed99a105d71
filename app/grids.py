"""One picture of many, as the paper's Fig. 3: a row for each method, a column for each step; and the same in motion."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from reslora_sd.diffusion.contact_sheet import fitted, scaled
from reslora_sd.runs.run import Run

from .pictures import PictureView, reference_view, steps_of, view
from .wording import variant_name

_INK, _FAINT, _EMPTY = "#1c1917", "#78716c", "#e7e5e4"
_GAP = 4
FORMATS = {"GIF": "gif", "WebP": "webp"}


def chosen_steps(steps: Sequence[int], most: int) -> list[int]:
    """At most so many steps, the first and the last among them, evenly spread."""
    if len(steps) <= most:
        return list(steps)
    if most == 1:
        return [steps[-1]]
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def grid(
    runs: Mapping[str, Run], prompts: Sequence[str], seed: int, variant: str, most: int = 11, cell: int = 128
) -> Image.Image:
    """Rows: methods, in a band for each prompt. Columns: steps, and the real picture where there is one.

    Args:
        most: columns of steps.
        cell: pixels of a cell's side.
    """
    steps = chosen_steps(sorted({s for prompt in prompts for s in steps_of(runs, prompt, seed, variant)}), most)
    bands = {prompt: _having(runs, prompt, seed, variant) for prompt in prompts}
    references = {prompt: reference_view(runs, prompt) for prompt in prompts}
    columns = [*(f"step {step}" for step in steps), *(["real"] if any(references.values()) else [])]
    left = 16 + max(int(_font(16).getlength(name)) for name in (*runs, "x"))
    top, band, line = 40, 30, cell + _GAP
    height = top + sum(band + len(having) * line + 8 for having in bands.values()) + 4
    width = max(left + len(columns) * line + 12, 360)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for place, label in enumerate(columns):
        middle = left + place * line + cell / 2
        pen.text((middle, 14), label, _FAINT, _font(13), anchor="ma")
    y = top
    for prompt, having in bands.items():
        title = f"\N{LEFT DOUBLE QUOTATION MARK}{prompt}\N{RIGHT DOUBLE QUOTATION MARK}, seed {seed}"
        pen.text((left, y + 4), fitted(title, width - left - 12, _font(15)), _INK, _font(15))
        for number, (name, run) in enumerate(having.items()):
            corner = y + band + number * line
            pen.text((left - 10, corner + cell / 2), name, _INK, _font(16), anchor="rm")
            found = [view(name, run, prompt, seed, variant, step) for step in steps]
            for place, one in enumerate(found):
                _paste(sheet, one, (left + place * line, corner), cell)
        real = references[prompt]
        if real is not None:
            corner = y + band + (len(having) - 1) * line // 2
            _paste(sheet, real, (left + len(steps) * line, corner), cell)
        y += band + len(having) * line + 8
    return sheet


def _having(runs: Mapping[str, Run], prompt: str, seed: int, variant: str) -> dict[str, Run]:
    """The runs that drew a prompt at all: a row of empty cells says nothing. All of them where none did."""
    found = {name: run for name, run in runs.items() if steps_of({name: run}, prompt, seed, variant)}
    return found or dict(runs)


def frame(
    runs: Mapping[str, Run], prompts: Sequence[str], seed: int, variant: str, step: int, share: float, cell: int = 224
) -> Image.Image:
    """One moment: methods beside each other for one prompt, or a row for each and a column for each prompt.

    Args:
        share: of the way from the first step to the last, 0 to 1; drawn as a bar.
    """
    names = list(runs)
    many = len(prompts) > 1
    across, down = (prompts, names) if many else (names, prompts)
    left = 20 + max(int(_font(15).getlength(name)) for name in names) if many else 8
    line, top = cell + 8, 76
    sheet = Image.new("RGB", (max(left + len(across) * line, 240), top + len(down) * line), "white")
    pen = ImageDraw.Draw(sheet)
    quoted = ", ".join(f"\N{LEFT DOUBLE QUOTATION MARK}{prompt}\N{RIGHT DOUBLE QUOTATION MARK}" for prompt in prompts)
    pen.text((12, 8), f"step {step}", _INK, _font(22))
    if not many:
        pen.text((sheet.width - 12, 14), fitted(quoted, sheet.width - 150, _font(14)), _FAINT, _font(14), anchor="ra")
    pen.rectangle((12, 40, sheet.width - 12, 44), _EMPTY)
    pen.rectangle((12, 40, 12 + share * (sheet.width - 24), 44), "#ea580c")
    for column, above in enumerate(across):
        x = left + column * line
        pen.text((x + cell / 2, 53), fitted(above, cell, _font(15)), _INK, _font(15), anchor="ma")
        for row, beside in enumerate(down):
            name, prompt = (beside, above) if many else (above, beside)
            y = top + row * line
            _paste(sheet, view(name, runs[name], prompt, seed, variant, step), (x, y), cell)
            if many and column == 0:
                pen.text((left - 10, y + cell / 2), name, _INK, _font(15), anchor="rm")
    return sheet


def animation(
    runs: Mapping[str, Run], prompts: Sequence[str], seed: int, variant: str, form: str = "GIF", milliseconds: int = 500
) -> bytes:
    """The steps one after the other; the last one stays a while.

    Raises:
        ValueError: another form than GIF or WebP, or there is no picture.
    """
    if form not in FORMATS:
        raise ValueError(f"The form is {form!r}. It must be one of {', '.join(FORMATS)}.")
    steps = chosen_steps(sorted({s for prompt in prompts for s in steps_of(runs, prompt, seed, variant)}), 60)
    if not steps or not runs:
        raise ValueError("There is no picture to put into motion. Choose a run that has pictures of this prompt.")
    span = max(steps[-1] - steps[0], 1)
    frames = [
        frame(runs, prompts, seed, variant, step, (step - steps[0]) / span, 224 if len(prompts) < 3 else 144)
        for step in steps
    ]
    times = [milliseconds] * (len(frames) - 1) + [4 * milliseconds]
    if form == "GIF":  # Pillow's own choice of colours takes a second a frame
        frames = [one.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for one in frames]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format=FORMATS[form].upper(), save_all=True, append_images=frames[1:], duration=times, loop=0
    )
    return buffer.getvalue()


def describe(runs: Mapping[str, Run], prompts: Sequence[str], seed: int, variant: str) -> str:
    """The alternative text of a grid or an animation."""
    steps = sorted({s for prompt in prompts for s in steps_of(runs, prompt, seed, variant)})
    span = f"steps {steps[0]} to {steps[-1]}" if steps else "no steps"
    said = ", ".join(f'"{prompt}"' for prompt in prompts)
    return f"{' and '.join(runs)} side by side at {span}, {variant_name(variant)}, for {said} with seed {seed}"


def _paste(sheet: Image.Image, one: PictureView, corner: tuple[int, int], cell: int) -> None:
    if one.image is None:
        pen = ImageDraw.Draw(sheet)
        pen.rectangle((*corner, corner[0] + cell - 1, corner[1] + cell - 1), _EMPTY)
        pen.text((corner[0] + cell / 2, corner[1] + cell / 2), "missing", _FAINT, _font(12), anchor="mm")
        return
    picture = scaled(one.image, cell)  # small pictures keep their pixels
    sheet.paste(picture.crop((0, 0, cell, min(cell, picture.height))), corner)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: Pillow's own font has Latin letters only."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


text_font = _font
"""For other pictures with text."""
