"""Figure 3: pictures while training, a row for each method and a part for each prompt. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runs.folder import RunFolder
from ..runs.names import UNMERGED
from .items import Item
from .planning import Plan
from .rendered import Rendered, nothing_here, table
from .values import done_runs

_MOST = 8
"""Steps that are shown."""
Pictures = dict[tuple[str, int], Path]
"""By prompt and step."""


def render_pictures(item: Item, plan: Plan) -> Rendered:
    """The pictures of the first seed, at the steps that all methods have."""
    found: dict[str, Pictures] = {}
    gaps = []
    for name, need in zip(item.rows, item.needs, strict=True):
        folders, gap = done_runs(plan, need)
        gaps += [gap] if gap else []
        seed = next((one for one in plan.preset.seeds if one in folders), None)
        found[name] = _pictures(folders[seed]) if seed is not None else {}
    there = [set(pictures) for pictures in found.values() if pictures]
    shared = sorted(set.intersection(*there)) if there else []
    prompts = list(dict.fromkeys(prompt for prompt, _ in shared))
    steps = _some(sorted({step for _, step in shared}))
    rows = [
        {"row": name, "prompt": prompt, "step": step, "file": str(pictures[prompt, step])}
        for name, pictures in found.items()
        for prompt in prompts
        for step in steps
        if (prompt, step) in pictures
    ]
    lines = [[name, str(sum(row["row"] == name for row in rows)) if found[name] else "gap"] for name in item.rows]
    text = table(["", "pictures"], lines) + f"\n\nPrompts: {'; '.join(prompts) or 'gap'}. Steps: {_words(steps)}."
    size = (1.2 + 1.1 * max(1, len(steps)), 0.8 + 1.25 * max(1, len(prompts) * len(item.rows)))
    data = {"prompts": prompts, "steps": steps, "pictures": rows}
    return Rendered(text, rows, data, gaps, lambda figure: _draw(figure, item, found, prompts, steps), size)


def _words(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "gap"


def _pictures(folder: Path) -> Pictures:
    """Of the unmerged model, the first seed of each prompt and step."""
    found: Pictures = {}
    for row in RunFolder(folder).pictures():
        if row["merge_approach"] == UNMERGED:
            found.setdefault((row["prompt"], row["step"]), folder / "validation" / row["file"])
    return {place: file for place, file in found.items() if file.is_file()}


def _some(steps: list[int]) -> list[int]:
    """At most `_MOST` of them, from the first to the last."""
    if len(steps) <= _MOST:
        return steps
    return [steps[round(i * (len(steps) - 1) / (_MOST - 1))] for i in range(_MOST)]


def _draw(figure: Any, item: Item, found: dict[str, Pictures], prompts: list[str], steps: list[int]) -> None:
    if not steps:
        nothing_here(figure.subplots())
        return
    from PIL import Image, UnidentifiedImageError

    places = [(prompt, name) for prompt in prompts for name in item.rows]
    grid = figure.subplots(len(places), len(steps), squeeze=False)
    for i, (line, (prompt, name)) in enumerate(zip(grid, places, strict=True)):
        line[0].set_ylabel(name, fontsize=8)
        for axes, step in zip(line, steps, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            file = found[name].get((prompt, step))
            try:
                if file is None:
                    raise FileNotFoundError
                with Image.open(file) as picture:
                    axes.imshow(picture.convert("RGB"))
            except (OSError, UnidentifiedImageError, ValueError):
                axes.text(0.5, 0.5, "gap", ha="center", va="center", transform=axes.transAxes, color="gray")
            if i % len(item.rows) == 0:
                axes.set_title(f"{prompt}\n{step}" if step == steps[0] else str(step), fontsize=7, loc="left")
