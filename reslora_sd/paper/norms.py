"""Figures 5 and 7: norms of the merged blocks by layer, as heat maps. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from . import reading
from .items import Item
from .planning import Plan
from .rendered import Rendered, nothing_here, table
from .values import done_runs

Grid = dict[tuple[str, int], float]
"""Norm by projection and layer."""
_PLACE = re.compile(r"(?:^|\.)(\d+)\.(?:[a-z_.]*\.)?(\w+)$", re.IGNORECASE)
DIFFERENCE = "difference"


def render_norms(item: Item, plan: Plan) -> Rendered:
    """||delta W||_F of every block, mean over seeds: of LoRA, of merged ResLoRA_bs, and the latter less the former."""
    grids: dict[str, Grid] = {}
    gaps = []
    for name, need in zip(item.rows, item.needs, strict=True):
        folders, gap = done_runs(plan, need)
        grids[name] = _grid([reading.norms(folder) for folder in folders.values()])
        if not gap and not grids[name]:
            gap = f"{name}: the runs have no norms"
        gaps += [gap] if gap else []
    lora, other = (grids[name] for name in item.rows)
    grids[DIFFERENCE] = {place: other[place] - lora[place] for place in other if place in lora}
    shown = [DIFFERENCE] if item.differences else list(grids)
    lines = []
    for projection in sorted({projection for grid in grids.values() for projection, _ in grid}):
        means = [_mean(grids[name], projection) for name in grids]
        lines.append([projection, *("gap" if mean is None else f"{mean:.4f}" for mean in means)])
    larger = sum(value > 0 for value in grids[DIFFERENCE].values())
    text = table(["mean over layers", *grids], lines) if lines else "gap"
    if grids[DIFFERENCE]:
        text += f"\n\n{larger} of {len(grids[DIFFERENCE])} blocks are larger with {item.rows[1]}."
    rows = [
        {"what": name, "projection": projection, "layer": layer, "norm": value}
        for name in shown
        for (projection, layer), value in sorted(grids[name].items())
    ]
    data = {"grids": rows, "larger": larger, "blocks": len(grids[DIFFERENCE])}
    return Rendered(
        text,
        rows,
        data,
        gaps,
        lambda figure: _draw(figure, {name: grids[name] for name in shown}),
        (8, 1.7 * len(shown)),
    )


def _grid(seeds: list[dict[str, float]]) -> Grid:
    """Means over the seeds that have a block."""
    found: dict[tuple[str, int], list[float]] = {}
    for blocks in seeds:
        for name, norm in blocks.items():
            if match := _PLACE.search(name):
                found.setdefault((match[2], int(match[1])), []).append(norm)
    return {place: fmean(norms) for place, norms in found.items()}


def _mean(grid: Grid, projection: str) -> float | None:
    norms = [norm for (other, _), norm in grid.items() if other == projection]
    return fmean(norms) if norms else None


def _draw(figure: Any, grids: Mapping[str, Grid]) -> None:
    for axes, (name, grid) in zip(figure.subplots(len(grids), 1, squeeze=False)[:, 0], grids.items(), strict=True):
        axes.set_title(name, fontsize=9)
        if not grid:
            nothing_here(axes)
            axes.set_axis_off()
            continue
        projections, layers = sorted({one for one, _ in grid}), sorted({one for _, one in grid})
        cells = [[grid.get((one, layer), float("nan")) for layer in layers] for one in projections]
        most = max(abs(value) for value in grid.values()) or 1.0
        both_signs = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        image = axes.imshow(cells, aspect="auto", **(both_signs if name == DIFFERENCE else {"cmap": "viridis"}))
        axes.set_yticks(range(len(projections)), projections, fontsize=8)
        axes.set_xticks(range(len(layers)), layers, fontsize=7)
        axes.set_xlabel("layer", fontsize=8)
        figure.colorbar(image, ax=axes)
