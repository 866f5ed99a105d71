"""Drawings of the adapter as SVG that takes the page's colours: matplotlib draws, nothing is loaded from elsewhere."""

from __future__ import annotations

import functools
import html
import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from reslora_sd.runs.run import Run

from .adapter_view import (
    PlannedBlock,
    merged_blocks,
    norm_differences,
    number,
    plan_summary,
    planned_blocks,
    short_place,
)
from .wording import method_name

matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: it can be read out, and takes the page's colour
_INK = "#010203"
"""Stands for the page's text colour in a drawing."""
_SVG_SIZE = re.compile(r'<svg([^>]*?) width="([\d.]+)pt" height="([\d.]+)pt"')


_MOST_PLACES, _MOST_LANES, _MOST_PATHS = 96, 24, 8
"""Of a drawing; FLUX has 57 places, SDXL 70. A file can name any number, and each takes time."""
_P = ParamSpec("_P")
_T = TypeVar("_T")
_lock = threading.RLock()


def alone(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """Keeps all drawings from being made at the same time: matplotlib is no friend of threads."""

    @functools.wraps(draw)
    def drawn(*values: _P.args, **more: _P.kwargs) -> _T:
        with _lock:
            return draw(*values, **more)

    return drawn


@alone
def link_plan(run: Run) -> str:
    """The blocks along the U-Net: a column a place, a lane a projection, arrows for residual paths."""
    found, left_out = _drawable(planned_blocks(run))
    if not found:
        return ""
    places = list(dict.fromkeys(block.place for block in found))
    lanes = list(dict.fromkeys(block.lane for block in found))
    figure = Figure(figsize=(2.4 + 0.75 * len(places), 2.3 + 0.42 * len(lanes)), layout="constrained")
    top, main = figure.subplots(2, 1, sharex=True, height_ratios=[1.1, 0.42 * len(lanes)])
    _draw_profile(top, found, places)
    errors = {name: number(values, "error") for name, values in merged_blocks(run).items()}
    at = {block.name: (places.index(block.place), lanes.index(block.lane)) for block in found}
    _draw_paths(main, found, at)
    coloured = _draw_blocks(main, found, at, errors)
    if coloured is not None:
        bar = figure.colorbar(coloured, ax=main, pad=0.01, fraction=0.03)
        bar.set_label("error of the merged branch", color=_INK)
        ink(bar.ax)
    _label(main, places, lanes)
    return left_out + as_svg(figure, f"Link plan of {method_name(run.name)}: {plan_summary(run)}")


@alone
def heat_map(reference: tuple[str, Run], other: tuple[str, Run]) -> tuple[str, str]:
    """Norms of the other's blocks minus the reference's, and what is missing."""
    differences, note = norm_differences(reference[1], other[1])
    if not differences:
        return "", note
    planned = [block for block in planned_blocks(other[1]) if block.name in differences]
    if not planned:
        return "", "run.json of the second run holds no link plan, which says where its blocks are."
    found, left_out = _drawable(planned)
    places = list(dict.fromkeys(block.place for block in found))
    lanes = list(dict.fromkeys(block.lane for block in found))
    table = [[math.nan] * len(places) for _ in lanes]
    for block in found:
        table[lanes.index(block.lane)][places.index(block.place)] = differences[block.name]
    largest = max((abs(value) for value in differences.values()), default=0.0) or 1.0
    figure = Figure(figsize=(2.4 + 0.75 * len(places), 1.3 + 0.42 * len(lanes)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="RdBu_r", norm=TwoSlopeNorm(0, -largest, largest), aspect="auto")
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            if math.isfinite(value):
                shade = "white" if abs(value) > 0.6 * largest else "#1c1917"
                axes.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=shade)
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03)
    ink(bar.ax)
    _label(axes, places, lanes)
    mean = sum(differences.values()) / len(differences)
    larger = sum(value > 0 for value in differences.values())
    text = (
        f"Heat map: Frobenius norm of each merged block's change in {other[0]} minus that in {reference[0]}; "
        f"larger in {larger} of {len(differences)} blocks, mean difference {mean:+.4f}"
    )
    return left_out + as_svg(figure, text), note


def _drawable(found: Sequence[PlannedBlock]) -> tuple[list[PlannedBlock], str]:
    """The blocks of the first places and lanes, as many as are drawn, and a sentence on the others as HTML."""
    places = list(dict.fromkeys(block.place for block in found))
    lanes = list(dict.fromkeys(block.lane for block in found))
    shown = set(places[:_MOST_PLACES]), set(lanes[:_MOST_LANES])
    kept = {(block.place, block.lane): block for block in found if block.place in shown[0] and block.lane in shown[1]}
    if len(kept) == len(found):
        return list(found), ""
    said = f"{len(kept)} of {len(found)} blocks are drawn: those of {len(shown[0])} of {len(places)} places."
    return list(kept.values()), f'<p class="say">{said}</p>'


def _draw_profile(axes: Axes, found: Sequence[PlannedBlock], places: Sequence[str]) -> None:
    """The U: how many tokens the attention has at each place, and how wide it is."""
    tokens = [max(1, *(block.tokens for block in found if block.place == place)) for place in places]
    widths = [max(block.width for block in found if block.place == place) for place in places]
    height = [math.log2(count) for count in tokens]
    axes.bar(range(len(places)), height, width=0.92, color="#94a3b8", alpha=0.45)
    for place, (count, width) in enumerate(zip(tokens, widths, strict=True)):
        text = f"{count} tokens\n{width} wide"
        axes.text(place, height[place] + 0.2, text, ha="center", va="bottom", fontsize=7, color=_INK)
    axes.set_ylim(0, max(height) * 1.8 + 1)
    axes.set_axis_off()


def _draw_paths(axes: Axes, found: Sequence[PlannedBlock], at: Mapping[str, tuple[int, int]]) -> None:
    for block in found:
        for distance, name in enumerate(block.predecessors):
            if name not in at or distance >= _MOST_PATHS:
                continue
            bend = 0.0 if distance == 0 and abs(at[name][0] - at[block.name][0]) == 1 else 0.25
            arrow = axes.add_patch(
                FancyArrowPatch(
                    at[name],
                    at[block.name],
                    arrowstyle="-|>",
                    mutation_scale=9,
                    shrinkA=6,
                    shrinkB=6,
                    connectionstyle=f"arc3,rad={-bend}",
                    color="#f97316",
                    alpha=1.0 if distance == 0 else 0.35,
                    linewidth=1.6 if distance == 0 else 0.8,
                )
            )
            arrow.set_in_layout(False)  # to ask each for its size takes longer than to draw it


def _draw_blocks(
    axes: Axes, found: Sequence[PlannedBlock], at: Mapping[str, tuple[int, int]], errors: Mapping[str, float | None]
) -> ScalarMappable | None:
    """A square starts a chain, a circle follows another block; filled by the error of its merged branch."""
    known = [error for error in errors.values() if error is not None]
    colours: Colormap = matplotlib.colormaps["viridis"]
    scale = Normalize(0, max([*known, 1e-6]))
    for block in found:
        error = errors.get(block.name)
        axes.plot(
            *at[block.name],
            marker="o" if block.predecessors else "s",
            markersize=9,
            markeredgecolor=_INK,
            markerfacecolor=colours(scale(error)) if error is not None else "#a8a29e",
            linestyle="none",
        )
    return ScalarMappable(scale, colours) if known else None


def _label(axes: Axes, places: Sequence[str], lanes: Sequence[str]) -> None:
    axes.set_xticks(range(len(places)), [_drawn(short_place(place)) for place in places], parse_math=False)
    axes.set_yticks(range(len(lanes)), [_drawn(lane) for lane in lanes], parse_math=False)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.tick_params(axis="x", labelrotation=35 if len(places) > 6 else 0)
    ink(axes)


def _drawn(text: str) -> str:
    """What a drawing can hold of a name: no control characters, and not more than fits."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", text)[:32]


def ink(axes: Axes) -> None:
    """Gives a plot the page's text colour, and no frame."""
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def as_svg(figure: Figure, alt: str) -> str:
    """The drawing to put into a page: it scales with it, takes its text colour, and has a text of its own."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser draws the text, with its own
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    said = html.escape(alt, quote=True)
    size = (
        r'<svg\1 role="img" aria-label="'
        + said.replace("\\", r"\\")
        + r'" style="width:100%;min-width:calc(\2px);max-width:calc(2 * \2px)"'
    )
    return f'<div class="drawing" tabindex="0">{_SVG_SIZE.sub(size, text, count=1)}</div>'
