"""The paper's tables and figures: their cells, which trainings these need, and the paper's own figures. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

GENERATION = ("gsm8k", "svamp", "mathqa", "metamathqa", "hellaswag")
PICTURES = "pictures"
"""The task of the figure with pictures; all others are GLUE's."""
X = "X"
"""The paper's sign where answers can't be read."""
_WITH_PRE_NUM = {"reslora_bs": 4, "reslora_ms": 4}
"""Methods that have a number of previous blocks, and the paper's."""


def family_of(task: str) -> str:
    """Which training script a task belongs to: `nlg`, `nlu` or `pictures`."""
    if task == PICTURES:
        return PICTURES
    return "nlg" if task in GENERATION else "nlu"


@dataclass(frozen=True)
class Need:
    """A training of a cell, without its rate and seed."""

    task: str
    method: str
    rank: int | None = None
    """`None`: the preset's."""
    pre_num: int | None = None
    """Of methods that have it."""

    def __post_init__(self) -> None:
        default = _WITH_PRE_NUM.get(self.method)
        object.__setattr__(self, "pre_num", (self.pre_num or default) if default else None)

    @property
    def chooses(self) -> Need:
        """The training whose best rate this one takes: the number of previous blocks has no sweep of its own."""
        return Need(self.task, self.method, self.rank)


@dataclass(frozen=True)
class Cell:
    """One figure of an item."""

    row: int
    column: int
    need: Need
    form: str
    """Which form of the trained model is measured, as results.json calls it."""
    figure: str
    """`metric`, `by_epoch`, `seconds_an_epoch`, `compared_to_lora` or `peak_memory_mb`."""
    metric: str
    place: int
    """Of `by_epoch`: which of the epochs that were measured."""
    paper: float | str | None
    """The paper's figure, or `X`."""


@dataclass(frozen=True)
class Item:
    """A table or a figure."""

    name: str
    title: str
    kind: str
    """`table`, `accuracy_curves`, `loss_curves`, `norms` or `pictures`."""
    model: str
    """The paper's."""
    unit: str
    note: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    needs: tuple[Need, ...]
    """Of tables by cell, of figures by row."""
    papers: tuple[Any, ...]
    """Of figures by row: what the paper says of it, or `None`."""
    part: tuple[float, float] = (0.0, 1.0)
    """Of loss curves: which share of the training is shown."""
    differences: bool = False
    """Of norms: whether only their difference is shown."""


@cache
def all_items() -> dict[str, Item]:
    """By name, in the paper's order."""
    stored = yaml.safe_load(Path(__file__).with_name("items.yaml").read_text(encoding="utf-8"))
    return {name: _item(name, found) for name, found in stored.items()}


def chosen(names: Sequence[str]) -> list[Item]:
    """Items by name, each once; `all` for all.

    Raises:
        ValueError: there is none of that name.
    """
    items = all_items()
    for name in names:
        if name != "all" and name not in items:
            raise ValueError(f"There is no item {name!r}. Items are all, {', '.join(items)}.")
    return list(items.values()) if "all" in names else [items[name] for name in dict.fromkeys(names)]


def needs_of(items: Iterable[Item]) -> dict[Need, list[str]]:
    """Every training that is needed, with the names of the items that share it."""
    found: dict[Need, list[str]] = {}
    for item in items:
        for need in item.needs:
            found.setdefault(need, []).append(item.name)
    return found


def _item(name: str, found: Mapping[str, Any]) -> Item:
    rows, columns = found["rows"], found.get("columns", [])
    is_table = found["kind"] == "table"
    cells = tuple(_cells(rows, columns)) if is_table else ()
    by_row = (Need(found["task"], row["method"], row.get("rank"), row.get("pre_num")) for row in rows if not is_table)
    return Item(
        name=name,
        title=found["title"],
        kind=found["kind"],
        model=found["model"],
        unit=found.get("unit", ""),
        note=found.get("note", ""),
        rows=tuple(row["name"] for row in rows),
        columns=tuple(column["name"] for column in columns),
        cells=cells,
        needs=tuple(dict.fromkeys(cell.need for cell in cells)) or tuple(by_row),
        papers=tuple(row.get("paper") for row in rows),
        part=tuple(found.get("part", (0.0, 1.0))),
        differences=found.get("differences", False),
    )


def _cells(rows: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]]) -> Iterable[Cell]:
    for i, row in enumerate(rows):
        for j, column in enumerate(columns[: row.get("only")]):
            both = {**column, **row}
            yield Cell(
                row=i,
                column=j,
                need=Need(both["task"], both["method"], both.get("rank"), both.get("pre_num")),
                form=both["form"],
                figure=both.get("figure", "metric"),
                metric=both.get("metric", "accuracy"),
                place=both.get("place", 0),
                paper=row["paper"][j] if "paper" in row else None,
            )
