"""Writes items: ITEM.md, .csv, .json, .png and .svg, from the runs that are there. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.atomic import replacing, write_json
from .curves import render_accuracy, render_losses
from .items import Item
from .norms import render_norms
from .planning import Plan
from .rendered import Rendered
from .sheets import render_pictures
from .tables import render_table

_KINDS: Mapping[str, Callable[[Item, Plan], Rendered]] = {
    "table": render_table,
    "accuracy_curves": render_accuracy,
    "loss_curves": render_losses,
    "norms": render_norms,
    "pictures": render_pictures,
}
_MOST_GAPS = 12
"""Lines in the Markdown; the JSON has all."""


def render_items(items: Sequence[Item], plan: Plan, folder: Path) -> list[str]:
    """Writes every item's files, and `all.md` with those that were asked for.

    Returns:
        lines for the screen.

    Raises:
        ImportError: matplotlib is missing; all but the plots is there then.
    """
    said, texts = [], []
    for item in items:
        rendered = _KINDS[item.kind](item, plan)
        text = _page(item, plan, rendered)
        texts.append(text)
        _write(folder / f"{item.name}.md", text)
        _write(folder / f"{item.name}.csv", _csv(rendered))
        about = {
            "item": item.name,
            "title": item.title,
            "preset": plan.preset.name,
            "paper_model": item.model,
            "unit": item.unit,
            "note": item.note,
            "seeds": plan.preset.seeds,
        }
        write_json(folder / f"{item.name}.json", {**about, **rendered.data, "gaps": list(rendered.gaps)})
        gaps = f"{len(rendered.gaps)} gaps" if rendered.gaps else "whole"
        said.append(f"{item.name}: {gaps}, {folder / item.name}.md")
        _plot(item, rendered, folder)
    _write(folder / "all.md", "\n".join(texts))
    return said


def _page(item: Item, plan: Plan, rendered: Rendered) -> str:
    parts = [f"## {item.title}", f"Preset `{plan.preset.name}`; the paper: {item.model}.", rendered.text]
    parts += [item.note] if item.note else []
    parts.append(f"![{item.title}]({item.name}.png)")
    if rendered.gaps:
        shown = [f"- {gap}" for gap in rendered.gaps[:_MOST_GAPS]]
        more = len(rendered.gaps) - len(shown)
        parts.append("Gaps:\n\n" + "\n".join([*shown, *([f"- and {more} more"] if more else [])]))
    return "\n\n".join(parts) + "\n"


def _csv(rendered: Rendered) -> str:
    text = io.StringIO()
    if rendered.rows:
        writer = csv.DictWriter(text, list(rendered.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rendered.rows)
    return text.getvalue()


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plot(item: Item, rendered: Rendered, folder: Path) -> None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            f"{item.name}.png and .svg, and what comes after them, need matplotlib. Run: pip install matplotlib"
        ) from None
    figure: Any = Figure(figsize=rendered.size, dpi=120, layout="constrained")
    rendered.draw(figure)
    figure.suptitle(item.title, fontsize=10)
    with matplotlib.rc_context({"svg.hashsalt": item.name}):  # the same picture is the same file
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            with replacing(folder / f"{item.name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
