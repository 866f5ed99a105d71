"""Tables: the paper's figure, ours over seeds, the difference; a part of the figure for each column. No torch."""

from __future__ import annotations

from typing import Any

from .items import Cell, Item, X
from .planning import Plan
from .rendered import Rendered, plain, signed, table
from .values import Value, value_of


def render_table(item: Item, plan: Plan) -> Rendered:
    """Every cell from the runs that are there."""
    values = {(cell.row, cell.column): (cell, value_of(cell, plan)) for cell in item.cells}
    lines = [
        [name, *(_cell(*values[i, j]) if (i, j) in values else "" for j in range(len(item.columns)))]
        for i, name in enumerate(item.rows)
    ]
    unit = f", {item.unit}" if item.unit else ""
    text = f"Each cell{unit}: the paper's figure / ours, mean ± standard deviation over seeds / difference.\n\n"
    return Rendered(
        text + table(["", *item.columns], lines),
        [_csv_row(item, *one) for one in values.values()],
        {"cells": [_json_cell(item, *one) for one in values.values()]},
        list(dict.fromkeys(value.gap for _, value in values.values() if value.gap)),
        lambda figure: _draw(figure, item, values),
        (2.2 + 1.7 * len(item.columns), 1.4 + 0.36 * len(item.rows)),
    )


def _csv_row(item: Item, cell: Cell, value: Value) -> dict[str, Any]:
    """A line of the CSV; what isn't there is empty."""
    return {
        "row": item.rows[cell.row],
        "column": item.columns[cell.column],
        "paper": "" if cell.paper is None else cell.paper,
        "ours": X if value.is_x else _rounded(value.mean),
        "spread": "" if value.is_x else _rounded(value.spread),
        "seeds": len(value.by_seed),
        "difference": _rounded(value.difference(cell.paper)),
        "gap": value.gap,
    }


def _json_cell(item: Item, cell: Cell, value: Value) -> dict[str, Any]:
    return {
        "row": item.rows[cell.row],
        "column": item.columns[cell.column],
        "form": cell.form,
        "figure": cell.figure,
        "paper": cell.paper,
        "ours": value.to_json(),
        "difference": value.difference(cell.paper),
    }


def _cell(cell: Cell, value: Value) -> str:
    parts = [plain(cell.paper), value.text(), signed(value.difference(cell.paper))]
    return " / ".join(part for part in parts if part)


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _draw(figure: Any, item: Item, values: dict[tuple[int, int], tuple[Cell, Value]]) -> None:
    """A part for each column: the paper's figures as rings, ours as dots with their spread."""
    parts = figure.subplots(1, len(item.columns), sharey=True, squeeze=False)[0]
    for j, (axes, name) in enumerate(zip(parts, item.columns, strict=True)):
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.3)
        axes.set_ylim(len(item.rows) - 0.5, -0.5)
        axes.set_yticks(range(len(item.rows)), item.rows)
        for i in range(len(item.rows)):
            cell, value = values.get((i, j), (None, Value()))
            if cell is None:
                continue
            if isinstance(cell.paper, float | int):
                axes.plot(cell.paper, i, "o", markerfacecolor="none", color="C1")
            if value.mean is not None and not value.is_x:
                axes.errorbar(value.mean, i, xerr=value.spread or 0.0, fmt="o", color="C0", markersize=4)
            else:
                said = "X" if value.is_x else "gap"
                axes.annotate(
                    said,
                    (1.0, i),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="center",
                    color="gray",
                    fontsize=8,
                )
    for label, style in (("paper", {"markerfacecolor": "none", "color": "C1"}), ("ours", {"color": "C0"})):
        parts[0].plot([], [], "o", label=label, **style)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
