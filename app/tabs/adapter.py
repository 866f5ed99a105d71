"""The tab Inside the adapter: link plan, merge report, and where one run's blocks became larger than another's."""

from __future__ import annotations

import functools
import html
from pathlib import Path
from typing import Any

import gradio as gr

from reslora_sd.runs.reader import read_run, signature

from .. import adapter_view, drawings
from ..wording import labelled
from .menus import Menu
from .shared import FOLLOW, Page, menu, message

_DRAW: dict[str, Any] = {**FOLLOW, "concurrency_limit": 1, "concurrency_id": "drawings"}
"""matplotlib is no friend of threads."""
_MOST_MAPS = 4
"""Each takes a fifth of a second."""


def build(page: Page, chosen: gr.CheckboxGroup, pair: tuple[gr.Dropdown, gr.Dropdown]) -> Any:
    """Lays the tab out; gives the function that draws it, its inputs and outputs."""
    run = Menu([], label="Run to look into", elem_id="look-into")
    summary = gr.HTML(message("Reading the run and drawing its plan ..."), elem_id="inside-summary")
    plan = gr.HTML(elem_id="plan", elem_classes="wide")
    gr.HTML(
        '<p class="say">Square: starts a chain. Circle: follows another block. Arrow: residual path, '
        "faint for those from further back. Colour: relative error of the branch after the merge.</p>"
    )
    heat_title = gr.HTML()
    heat = gr.HTML(elem_id="heat", elem_classes="wide")
    with gr.Row():
        end = gr.Dataframe(
            headers=["model", "loss", "drift"],
            datatype="str",
            label="The whole model after each merge",
            elem_id="end",
            interactive=False,
            wrap=True,
        )
    approach = Menu([], label="Merge to list", elem_id="merge-approach")
    blocks = gr.Dataframe(
        headers=adapter_view.MERGE_COLUMNS,
        datatype="str",
        label="Every block",
        interactive=False,
        max_height=360,
        elem_id="blocks",
    )
    draw = _draw(page)
    inputs: list[Any] = [chosen, *pair, run, approach]
    outputs: list[Any] = [run, summary, plan, heat_title, heat, end, approach, blocks]
    run.input(draw, inputs, outputs, **_DRAW)
    approach.input(draw, inputs, outputs, **_DRAW)
    return draw, inputs, outputs


def _draw(page: Page) -> Any:
    def draw(names: list[str], a: str | None, b: str | None, name: str | None, approach: str | None) -> tuple[Any, ...]:
        runs = page.keyed(names)
        new = name if name in runs else (b if b in runs else next(iter(runs), None))
        if new is None:
            nothing = message("Choose a run above.")
            return gr.Dropdown([], value=None), nothing, "", "", "", None, gr.Dropdown([], value=None), None
        run = runs[new]
        known = adapter_view.approaches(run)
        listed = approach if approach in known else next(iter(known), None)
        title, heat = _heat(page, names, a, b)
        return (
            menu(gr.Dropdown, page.choices(names), new, name),
            message(f"{adapter_view.plan_summary(run)} {adapter_view.lora_summary(run)}"),
            _plan(run.path, signature(run.path)),
            title,
            heat,
            adapter_view.end_table(run),
            menu(gr.Dropdown, labelled(known), listed, approach),
            adapter_view.merge_table(run, listed),
        )

    return draw


def _heat(page: Page, names: list[str], a: str | None, b: str | None) -> tuple[str, str]:
    runs = page.runs(names)
    a, b = page.shown(a, b)
    if a not in runs or len(runs) < 2 or a is None:
        return message("The heat map needs two runs. Choose them above."), ""
    others = sorted((name for name in runs if name != a), key=lambda name: name != b)
    maps = []
    for name in others[:_MOST_MAPS]:
        svg, note = drawings.heat_map((a, runs[a]), (name, runs[name]))
        maps.append(f"<h3>{html.escape(f'{name} minus {a}')}</h3>{message(note)}{svg}")
    more = len(others) - len(maps)
    head = "<h2>Frobenius norm of each merged block's change, against A (the paper's Figs. 5 and 7)</h2>"
    return head, "".join(maps) + message(f"{more} more ticked runs have no map here: choose one as B." if more else "")


@functools.lru_cache(maxsize=16)
def _plan(path: Path, _now: object) -> str:
    """Half a second's drawing, kept while the run's files stay as they are."""
    return drawings.link_plan(read_run(path))
