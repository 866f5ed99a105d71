"""The tab Compare: pictures of all chosen runs at one step, side by side, under a wipe, as one grid, in motion.

The pictures and the step are a script's, `viewer.js`: the server sends it the addresses of all steps once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from reslora_sd.runs.names import UNMERGED

from .. import grids
from ..wording import labelled
from .menus import Menu
from .shared import FOLLOW, Page, message

PLAYER = """
<div id="player" role="group" aria-label="Step">
  <button id="earlier" type="button">\N{LEFTWARDS ARROW} Earlier</button>
  <button id="play" type="button">Play</button>
  <button id="later" type="button">Later \N{RIGHTWARDS ARROW}</button>
  <div id="step"><span aria-live="polite">Step</span>
    <input type="range" min="0" max="1" step="1" value="0" aria-label="Step" disabled>
  </div>
</div>
"""
SIDES = '<div id="sides"></div>'
_WIPE = """
<div id="wipe"></div>
<p class="say" id="wipe-text"></p>
<label id="wipe-at">Place of the wipe, %<input type="range" min="0" max="100" step="1" value="50"></label>
"""
_FOLDER = Path(__file__).parent
STYLE, _FETCHING, _VIEWER = (
    (_FOLDER / name).read_text(encoding="utf-8") for name in ("viewer.css", "fetching.js", "viewer.js")
)
SCRIPT = _FETCHING + _VIEWER


@dataclass
class Compare:
    """The tab's menus and what they choose."""

    prompt: gr.Dropdown
    seed: gr.Dropdown
    variant: gr.Dropdown


def build(page: Page, chosen: gr.CheckboxGroup) -> Compare:
    """Lays the tab out and joins its events. Gives what is chosen in it."""
    with gr.Row(elem_classes="tight"):
        prompt = Menu([], label="Prompt", scale=4, min_width=180, elem_id="prompt")
        seed = Menu([], label="Seed", scale=1, min_width=90, elem_id="seed")
        variant = Menu(
            labelled([UNMERGED]), value=UNMERGED, label="Which pictures", scale=2, min_width=150, elem_id="variant"
        )
    tab = Compare(prompt, seed, variant)
    gr.HTML(PLAYER, padding=False)
    with gr.Tabs(overflow_behavior="wrap", elem_id="parts"):
        with gr.Tab("Side by side", id="sides"):
            gr.HTML(SIDES, padding=False)
        with gr.Tab("Wipe", id="wipe"):
            gr.HTML(_WIPE, padding=False)
        with gr.Tab("Grid", id="grid"):
            _build_grid(page, chosen, tab)
    return tab


def _build_grid(page: Page, chosen: gr.CheckboxGroup, tab: Compare) -> None:
    """The tab's grid and its downloads."""
    with gr.Row(elem_classes="tight"):
        every = gr.Checkbox(True, label="All prompts", min_width=120)
        most = gr.Slider(2, 21, value=11, step=1, label="Columns at most", min_width=160, buttons=[])
        form = gr.Dropdown(list(grids.FORMATS), value="GIF", label="Animation as", min_width=110)
        make = gr.Button("Make the animation", elem_id="animate", min_width=140)
    sheet = gr.Image(show_label=False, interactive=False, elem_id="grid", buttons=["fullscreen"], format="png")
    png = gr.DownloadButton("Download the grid (PNG)", elem_id="download-grid", variant="primary")
    moving = gr.Image(label="Animation", interactive=False, visible=False, elem_id="moving", buttons=["fullscreen"])
    moving_file = gr.DownloadButton("Download the animation", visible=False, elem_id="download-animation")
    said = gr.HTML()
    draw, late = page.limited("The grid", _draw_grid(page), 2), gr.HTML(elem_id="grid-said", padding=False)
    inputs = [chosen, tab.prompt, tab.seed, tab.variant, every, most]
    redraw = gr.Button("Draw the grid", elem_id="redraw-grid", elem_classes="unseen")
    for trigger in (every.input, most.release, redraw.click):
        trigger(draw, inputs, [sheet, png, late], **FOLLOW)
    make.click(
        page.limited("The animation", _animate(page), 3),
        [chosen, tab.prompt, tab.seed, tab.variant, every, form],
        [moving, moving_file, said, late],
        api_visibility="private",
    )


def _draw_grid(page: Page) -> Any:
    def draw(
        names: list[str], prompt: str | None, seed: int | None, variant: str, every: bool, most: int
    ) -> tuple[Any, ...]:
        runs = page.runs(names)
        if prompt is None or seed is None or not runs:
            return gr.Image(value=None, alt_text="No grid: no run is chosen"), gr.DownloadButton(value=None)
        prompts = _prompts(page, names, prompt, every)

        def make() -> tuple[str, str]:
            sheet = page.file(grids.grid(runs, prompts, seed, variant, int(most)), "lora-and-reslora")
            return sheet, f"Grid: {grids.describe(runs, prompts, seed, variant)}"

        sheet, text = page.visits.once(("grid", *runs, *prompts, seed, variant, int(most)), make)
        return gr.Image(value=sheet, alt_text=text), gr.DownloadButton(value=sheet)

    return draw


def _animate(page: Page) -> Any:
    def animate(
        names: list[str], prompt: str | None, seed: int | None, variant: str, every: bool, form: str
    ) -> tuple[Any, ...]:
        runs = page.runs(names)
        try:
            if prompt is None or seed is None:
                raise ValueError("There is no picture to put into motion. Choose a run that has pictures.")
            prompts = _prompts(page, names, prompt, every)
            data = grids.animation(runs, prompts, seed, variant, form)
        except ValueError as error:
            return gr.Image(visible=False), gr.DownloadButton(visible=False), message(str(error), "bad")
        target = page.passing.new(f"lora-and-reslora.{grids.FORMATS[form]}")
        target.write_bytes(data)
        file = page.passing.keep(target)
        text = f"Animation: {grids.describe(runs, prompts, seed, variant)}"
        return (
            gr.Image(value=file, alt_text=text, visible=True),
            gr.DownloadButton(f"Download the animation ({form}, {len(data) / 1000:.0f} kB)", value=file, visible=True),
            "",
        )

    return animate


def _prompts(page: Page, names: list[str], prompt: str, every: bool) -> list[str]:
    if not every:
        return [prompt]
    return list(dict.fromkeys(one for run in page.runs(names).values() for one in run.prompts()))[:8]
