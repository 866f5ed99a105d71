"""The tab Compare: pictures of all chosen runs at one step, side by side, under a wipe, as one grid, in motion."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from reslora_sd.runs.names import UNMERGED
from reslora_sd.runs.run import is_text

from .. import grids, pictures
from ..wording import labelled
from . import address
from .menus import Menu, Places
from .shared import FOLLOW, PRIVATE, Page, menu, message, tab_of, warnings_and_notes, when_open

MOST_SIDES = 6
PLAY, PAUSE = "Play", "Pause"
_PARTS = ("sides", "wipe", "grid")
LAST = 2**31
"""A page opens at the last step."""


@dataclass
class Compare:
    """The tab's menus and what they choose."""

    prompt: gr.Dropdown
    seed: gr.Dropdown
    variant: gr.Dropdown
    position: gr.Slider
    steps: gr.State
    """All steps that have a picture; the slider's value is a place in this list."""
    opened: gr.State
    """The step that is shown."""


def build(
    page: Page, chosen: gr.CheckboxGroup, pair: tuple[gr.Dropdown, gr.Dropdown], notes: gr.HTML, seen: gr.State
) -> Compare:
    """Lays the tab out and joins its events; `seen` changes when files have. Gives what is chosen in it."""
    tab, buttons = _lay_out()
    part = gr.State(_PARTS[0])
    with gr.Tabs(overflow_behavior="wrap") as parts:
        with gr.Tab("Side by side", id="sides"), gr.Row(elem_id="sides"):
            sides = [_side(place) for place in range(MOST_SIDES + 1)]
        with gr.Tab("Wipe", id="wipe"):
            wipe, wipe_text, wipe_at = _build_wipe()
        with gr.Tab("Grid", id="grid"):
            draw, inputs, outputs = _build_grid(page, chosen, tab)

    grid = when_open(draw, "grid", len(outputs))
    parts.select(tab_of(_PARTS), None, part, **FOLLOW)
    part.change(grid, [part, *inputs], outputs, **PRIVATE)
    show = _show(page)
    asked = [chosen, tab.prompt, tab.seed, tab.variant]
    shown: list[Any] = [*sides, wipe, wipe_text, tab.position, tab.opened, gr.HTML(elem_id="address", padding=False)]
    to_show: dict[str, Any] = {
        "fn": show,
        "inputs": [*asked, tab.position, tab.steps, *pair],
        "outputs": shown,
        "trigger_mode": "always_last",
        **PRIVATE,
    }
    menus = [tab.prompt, tab.seed, tab.variant, tab.position, tab.steps, notes]
    for trigger in (chosen.change, seen.change, tab.prompt.input, tab.seed.input, tab.variant.input):
        update = trigger(_menus(page), [*asked, tab.opened, tab.steps], menus, **FOLLOW)
        update.then(**to_show).then(grid, [part, *inputs], outputs, **PRIVATE)
    tab.position.change(**to_show)
    for one in pair:
        one.change(**to_show)
    _join_player(tab, *buttons)
    wipe_at.input(lambda share: gr.ImageSlider(slider_position=share), wipe_at, wipe, **FOLLOW)
    return tab


def _lay_out() -> tuple[Compare, tuple[gr.Button, gr.Button, gr.Button]]:
    """Menus, slider and the player's buttons: earlier, play, later."""
    with gr.Row(elem_classes="tight"):
        prompt = Menu([], label="Prompt", scale=4, min_width=180)
        seed = Menu([], label="Seed", scale=1, min_width=90)
        variant = Menu(labelled([UNMERGED]), value=UNMERGED, label="Which pictures", scale=2, min_width=150)
    steps, opened = gr.State([]), gr.State(LAST)
    with gr.Row(elem_classes="player"):
        back = gr.Button("\N{LEFTWARDS ARROW} Earlier", elem_id="earlier", size="sm", min_width=90, scale=0)
        play = gr.Button(PLAY, elem_id="play", size="sm", variant="primary", min_width=90, scale=0)
        forth = gr.Button("Later \N{RIGHTWARDS ARROW}", elem_id="later", size="sm", min_width=90, scale=0)
        position = Places(0, 1, value=0, step=1, label="Step", elem_id="step", buttons=[], scale=6, min_width=240)
    tab = Compare(prompt, seed, variant, position, steps, opened)
    return tab, (back, play, forth)


def _join_player(tab: Compare, back: gr.Button, play: gr.Button, forth: gr.Button) -> None:
    """In the browser: the server hears of a move once, from the slider."""
    position, clock = tab.position, gr.Timer(0.7, active=False)
    last = "+document.querySelector('#step input[type=range]').max"
    back.click(None, position, position, js="(place) => Math.max(0, place - 1)")
    forth.click(None, position, position, js=f"(place) => Math.min({last}, place + 1)")
    clock.tick(None, position, position, js=f"(place) => place >= {last} ? 0 : place + 1")
    play.click(_toggle, play, [play, clock], **PRIVATE)


def _side(place: int) -> gr.Image:
    return gr.Image(
        label="No run",
        visible=place == 0,
        interactive=False,
        min_width=150,
        buttons=["fullscreen", "download"],
        elem_classes="side",
        elem_id=f"side-{place}",
        format="png",
    )


def _build_wipe() -> tuple[gr.ImageSlider, gr.HTML, gr.Slider]:
    wipe = gr.ImageSlider(
        label="A left, B right", elem_id="wipe", interactive=False, max_height=640, format="png", buttons=["fullscreen"]
    )
    text = gr.HTML(elem_id="wipe-text")
    return wipe, text, gr.Slider(0, 100, value=50, step=1, label="Place of the wipe, %", elem_id="wipe-at", buttons=[])


def _build_grid(page: Page, chosen: gr.CheckboxGroup, tab: Compare) -> tuple[Any, list[Any], list[Any]]:
    """The tab's grid and its downloads; gives the function that draws it anew."""
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
    draw = _draw_grid(page)
    inputs = [chosen, tab.prompt, tab.seed, tab.variant, every, most]
    for trigger in (every.input, most.release):
        trigger(draw, inputs, [sheet, png], **FOLLOW)
    make.click(
        _animate(page),
        [chosen, tab.prompt, tab.seed, tab.variant, every, form],
        [moving, moving_file, said],
        api_visibility="private",
    )
    return draw, inputs, [sheet, png]


def _menus(page: Page) -> Any:
    def menus(
        names: list[str], prompt: str | None, seed: int | None, variant: str, step: int, before: Sequence[int]
    ) -> tuple[Any, ...]:
        runs = page.runs(names)
        prompts = list(dict.fromkeys(prompt for run in runs.values() for prompt in run.prompts()))
        new_prompt = prompt if prompt in prompts else next(iter(prompts), None)
        seeds = pictures.seeds_of(runs, new_prompt) if new_prompt is not None else []
        new_seed = seed if seed in seeds else next(iter(seeds), None)
        known = pictures.variants(runs)
        new_variant = variant if variant in known else known[0]
        steps: list[int] = []
        if new_prompt is not None and new_seed is not None:
            steps = pictures.steps_of(runs, new_prompt, new_seed, new_variant)
        slider = gr.skip()
        if steps != before:
            place = min(range(len(steps)), key=lambda place: abs(steps[place] - step), default=0)
            slider = gr.Slider(maximum=max(1, len(steps) - 1), value=place, interactive=len(steps) > 1)
        said = warnings_and_notes(runs)
        return (
            menu(gr.Dropdown, prompts, new_prompt, prompt),
            menu(gr.Dropdown, seeds, new_seed, seed),
            menu(gr.Dropdown, labelled(known), new_variant, variant),
            slider,
            steps,
            gr.HTML(value=said, visible=bool(said)),
        )

    return menus


def _show(page: Page) -> Any:
    def show(
        names: list[str],
        prompt: str | None,
        seed: int | None,
        variant: str,
        place: int,
        steps: Sequence[int],
        a: str | None,
        b: str | None,
    ) -> tuple[Any, ...]:
        runs = page.runs(names)
        if prompt is None or seed is None or not steps:
            why = "Choose a run above" if not runs else "The chosen runs have no such pictures yet"
            if runs and all(is_text(run.settings) for run in runs.values()):
                why = pictures.NO_PICTURES.format(next(iter(runs)))
            empty = [
                gr.Image(value=None, label=why, alt_text=why, visible=place == 0) for place in range(MOST_SIDES + 1)
            ]
            return (*empty, None, message(why), gr.Slider(label="Step"), gr.skip(), gr.skip())
        step = steps[min(int(place), len(steps) - 1)]
        sides = dict(list(runs.items())[:MOST_SIDES])
        found = [page.picture(view) for view in pictures.views(sides, prompt, seed, variant, step)]
        found += [gr.Image(value=None, visible=False)] * (MOST_SIDES + 1 - len(found))
        two = [
            pictures.view(name, runs[name], prompt, seed, variant, step) for name in page.shown(a, b) if name in runs
        ]
        label = f"Step {step}, of {steps[0]} to {steps[-1]}"
        beside = steps[max(0, int(place) - 1) : int(place) + 2]
        near = [one for other in beside for one in pictures.views(sides, prompt, seed, variant, other)]
        files = [file for one in near if (file := page.picture_file(one)) is not None]
        where = address.write(names, a, b, prompt, seed, variant, step, files)
        return (*found, _pair(page, two), _pair_text(two), gr.Slider(label=label), step, where)

    return show


def _pair(page: Page, two: Sequence[pictures.PictureView]) -> tuple[str, str] | None:
    files = [file for one in two if (file := page.picture_file(one)) is not None]
    return (files[0], files[1]) if len(files) == 2 else None


def _pair_text(two: Sequence[pictures.PictureView]) -> str:
    """What both sides show; a script of the page takes the pictures' alternative texts from here."""
    missing = [one.missing for one in two if one.missing]
    if len(two) < 2 or missing:
        return message(" ".join(missing) or "The wipe needs two runs.")
    left, right = (f'<b data-alt="{html.escape(one.alt, quote=True)}">{html.escape(one.title)}</b>' for one in two)
    return f'<p class="say">left: {left} &nbsp; right: {right}</p>'


def _draw_grid(page: Page) -> Any:
    def draw(
        names: list[str], prompt: str | None, seed: int | None, variant: str, every: bool, most: int
    ) -> tuple[Any, ...]:
        runs = page.runs(names)
        if prompt is None or seed is None or not runs:
            return gr.Image(value=None, alt_text="No grid: no run is chosen"), gr.DownloadButton(value=None)
        prompts = _prompts(page, names, prompt, every)
        sheet = page.passing_file(grids.grid(runs, prompts, seed, variant, int(most)), "lora-and-reslora")
        return (
            gr.Image(value=sheet, alt_text=f"Grid: {grids.describe(runs, prompts, seed, variant)}"),
            gr.DownloadButton(value=sheet),
        )

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


def _toggle(label: str) -> tuple[Any, Any]:
    playing = label == PLAY
    return gr.Button(PAUSE if playing else PLAY), gr.Timer(active=playing)
