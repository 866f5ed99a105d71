"""The tab Curves: what the logs of all chosen runs message, on one plot each, and how soon B comes as far as A."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from .. import curves
from .shared import FOLLOW, Page


def build(page: Page, chosen: gr.CheckboxGroup, pair: tuple[gr.Dropdown, gr.Dropdown], opened: Any) -> Any:
    """Lays the tab out; gives the function that draws it, its inputs and outputs."""
    figure = gr.HTML(elem_id="reach")
    weight = gr.Slider(
        0,
        0.99,
        value=0.9,
        step=0.01,
        label="Smoothing",
        info="Weight of what came before; 0 for none.",
        elem_id="smoothing",
        buttons=[],
    )
    plots = []
    with gr.Row(elem_id="curves"):
        for metric, title in curves.METRICS.items():
            plot = gr.LinePlot(
                x="step",
                y="value",
                color="run",
                title=title,
                x_title="step",
                y_title=" ",
                height=280,
                min_width=320,
                elem_id=f"curve-{metric}",
                buttons=["fullscreen"],
            )
            plots.append(plot)
    draw = _draw(page)
    inputs: list[Any] = [chosen, *pair, weight, opened]
    weight.release(draw, inputs, [figure, *plots], **FOLLOW)
    return draw, inputs, [figure, *plots]


def _draw(page: Page) -> Any:
    def draw(names: list[str], a: str | None, b: str | None, weight: float, step: int) -> tuple[Any, ...]:
        runs = page.runs(names)
        found: list[Any] = []
        colour = curves.colours(list(runs), step)
        for metric, title in curves.METRICS.items():
            table = curves.table(runs, metric, weight, step)
            shown = title if not table.empty else f"{title}: no run has it"
            ends = curves.axis(table)
            found.append(gr.LinePlot(value=table, title=shown, color_map=colour, y_lim=ends, visible=True))
        return _figure(page, names, a, b, weight), *found

    return draw


def _figure(page: Page, names: list[str], a: str | None, b: str | None, weight: float) -> str:
    runs = page.runs(names)
    if a not in runs or b not in runs or a == b or a is None or b is None:
        return '<p class="say">Choose two runs above, to see how soon B comes as far as A.</p>'
    large, rule = curves.reach_text(a, b, curves.reach(runs[a], runs[b], weight))
    head = f"Steps that {html.escape(b)} needs to reach {html.escape(a)}'s loss"
    return (
        f'<div class="figure"><div class="what">{head}</div><div class="large">{html.escape(large)}</div>'
        f'<div class="rule">{html.escape(rule)}</div></div>'
    )
