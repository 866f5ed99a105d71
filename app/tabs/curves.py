"""The tab Curves: the logs of all ticked runs, by run or as means over seeds, and how soon B comes as far as A."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from .. import curves, plots, seeds
from .shared import FOLLOW, Page, message


def build(page: Page, chosen: gr.CheckboxGroup, pair: tuple[gr.Dropdown, gr.Dropdown], opened: Any) -> Any:
    """Lays the tab out; gives the function that draws it, its inputs and outputs."""
    figure = gr.HTML(elem_id="reach")
    with gr.Row(elem_classes="tight"):
        weight = gr.Slider(
            0,
            0.99,
            value=0.9,
            step=0.01,
            label="Smoothing",
            info="Weight of what came before; 0 for none.",
            elem_id="smoothing",
            buttons=[],
            min_width=220,
        )
        how = gr.Radio(
            [seeds.EACH, seeds.MEAN],
            value=seeds.EACH,
            label="Lines",
            info="Runs that differ only in their seed are put together.",
            elem_id="curve-lines",
            min_width=220,
        )
    told = gr.HTML(elem_id="curves-said")
    drawn = gr.HTML(elem_id="curves")
    draw = _draw(page)
    inputs: list[Any] = [chosen, *pair, weight, how, opened]
    outputs: list[Any] = [figure, told, drawn]
    weight.release(draw, inputs, outputs, **FOLLOW)
    how.input(draw, inputs, outputs, **FOLLOW)
    return draw, inputs, outputs


def _draw(page: Page) -> Any:
    def draw(
        names: list[str], a: str | None, b: str | None, weight: float, how: str, step: int | None
    ) -> tuple[Any, ...]:
        runs = page.runs(names)
        found = seeds.groups(runs, how == seeds.MEAN)
        last = max((run.last_step for run in runs.values()), default=0)
        marked = step if step is not None and step <= last else None
        drawn = [
            plots.figure(seeds.lines(found, metric, weight), title, f"curve-{metric}", marked)
            for metric, title in curves.METRICS.items()
        ]
        said = message(seeds.none_together(found, how))
        return _figure(page, names, a, b, weight), said, plots.side_by_side(drawn)

    return draw


def _figure(page: Page, names: list[str], a: str | None, b: str | None, weight: float) -> str:
    runs = page.runs(names)
    a, b = page.shown(a, b)
    if a not in runs or b not in runs or a == b or a is None or b is None:
        return '<p class="say">Choose two runs above, to see how soon B comes as far as A.</p>'
    large, rule = curves.reach_text(a, b, curves.reach(runs[a], runs[b], weight))
    head = f"Steps that {html.escape(b)} needs to reach {html.escape(a)}'s loss"
    return (
        f'<div class="figure"><div class="what">{head}</div><div class="large">{html.escape(large)}</div>'
        f'<div class="rule">{html.escape(rule)}</div></div>'
    )
