"""The page: what is above the tabs, the tabs, and what keeps them up to date."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from ..gradio_files import styles
from ..limits import Limits
from ..manifest import nothing
from ..selection import Asked, Selection
from ..shell import Parts, Shell, in_page
from ..uploads import MOST_BYTES_EACH
from ..wording import labelled
from . import (
    adapter,
    address,
    blind_test,
    compare,
    curves,
    figures_style,
    runs,
    sharing_style,
    text,
    train_here,
    try_grid,
    try_it,
)
from .menus import Menu, Ticks
from .shared import FOLLOW, Page, menu, message, warnings_and_notes
from .style import CSS, HEAD, THEME, TOGGLE_DARK

_NAMES = {
    "compare": "Compare",
    "curves": "Curves",
    "adapter": "Inside the adapter",
    "text": "Text",
    "try": "Try it",
    "blind": "Blind test",
    "runs": "Runs",
    "train": "Train here",
}
_TABS = tuple(_NAMES)
_TITLE = "<h1>LoRA and ResLoRA, step by step</h1>"


def _build_head() -> tuple[gr.Button, gr.Button, gr.Button]:
    """The title; gives the button of the theme, and two of a script, which nobody sees."""
    with gr.Row(elem_id="head"):
        gr.HTML(_TITLE, elem_id="title", padding=False)
        dark = gr.Button("Light or dark", size="sm", min_width=100, scale=0)
        restore = gr.Button("Show what the address says", elem_id="restore", elem_classes="unseen")
        refresh = gr.Button("Look at the folders again", elem_id="refresh", elem_classes="unseen")
    return dark, restore, refresh


def _build_choice() -> tuple[Any, Any, Any]:
    """Ticks of all runs, and which of the ticked ones are A and B."""
    with gr.Row(elem_classes="tight"):
        chosen = Ticks([], label="Runs", elem_id="runs", scale=3, min_width=260)
        first = Menu([], label="A", elem_id="run-a", scale=1, min_width=220)
        second = Menu([], label="B, against A", elem_id="run-b", scale=1, min_width=220)
    return chosen, first, second


def _build_tabs(page: Page, chosen: Any, pair: tuple[Any, Any], opened: Any) -> tuple[compare.Compare, dict[str, Any]]:
    """All tabs; gives what is chosen in the first one, and what draws each of the others."""
    drawers: dict[str, Any] = {}
    with gr.Tab(_NAMES["compare"], id="compare"):
        shown = compare.build(page, chosen)
    with gr.Tab(_NAMES["curves"], id="curves"):
        drawers["curves"] = curves.build(page, chosen, pair, opened)
    with gr.Tab(_NAMES["adapter"], id="adapter"):
        drawers["adapter"] = adapter.build(page, chosen, pair)
    with gr.Tab(_NAMES["text"], id="text"):
        drawers["text"] = text.build(page, chosen)
    with gr.Tab(_NAMES["try"], id="try"):
        drawers["try"] = try_it.build(page, chosen)
        try_grid.build(page, chosen, drawers["try"][1][1])
    with gr.Tab(_NAMES["blind"], id="blind"):
        drawers["blind"] = blind_test.build(page, chosen, pair)
    with gr.Tab(_NAMES["runs"], id="runs"):
        drawers["runs"] = runs.build(page, chosen, pair)
    with gr.Tab(_NAMES["train"], id="train"):
        drawers["train"] = train_here.build(page)
    return shown, drawers


def build(page: Page) -> gr.Blocks:
    """The whole page; nothing is read before somebody opens it."""
    blocks: gr.Blocks
    with gr.Blocks(title="LoRA and ResLoRA, step by step", analytics_enabled=False) as blocks:
        dark, restore, refresh = _build_head()
        chosen, first, second = _build_choice()
        notes = gr.HTML(elem_id="notes", visible=False)
        slow = gr.HTML(elem_id="slow", padding=False)
        asked, selected = gr.Textbox(visible=False), gr.HTML(elem_id="address", padding=False)
        pair = (first, second)
        # the step that is shown: the script writes it, whichever tab is open; nothing is computed when it changes
        opened = gr.Number(label="Step", precision=0, elem_id="opened")
        with gr.Tabs(overflow_behavior="wrap", elem_id="tabs") as tabs:
            shown, drawers = _build_tabs(page, chosen, pair, opened)
        dark.click(None, None, None, js=TOGGLE_DARK)
        menus = [chosen, *pair, shown.prompt, shown.seed, shown.variant]
        told = [*menus, notes, selected]

        def limited(what: str, draw: Any, outputs: list[Any], limits: Limits = page.limits) -> dict[str, Any]:
            return {"fn": page.limited(what, draw, len(outputs), limits), "outputs": [*outputs, slow]}

        restored = limited("The page", _restore(page), [*told, tabs], page.opening)
        restore.click(inputs=asked, js="() => [location.search]", **restored, **FOLLOW)
        refresh.click(inputs=menus, **limited("The page", _follow(page, again=True), told, page.opening), **FOLLOW)
        followed = limited("The page", _follow(page), told, page.opening)
        for trigger in (chosen.change, *(one.input for one in menus[1:])):
            trigger(inputs=menus, **followed, **FOLLOW)
        _draw_when_asked(drawers, limited)
        blocks.unload(_left(page))
    blocks.queue(default_concurrency_limit=8, max_size=64)
    return blocks


def mount(app: FastAPI, page: Page, head: str = "") -> Shell:
    """Puts the whole page at the root of an app, and gives what makes the page of a request.

    Args:
        head: more of the page's HTML head, before ours.
    """
    blocks = build(page)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=THEME,
        css=CSS + sharing_style.CSS + figures_style.CSS,
        head=head + HEAD + blind_test.HEAD,
        footer_links=[],
        run_history=False,  # no link leads to it, and browsers would keep what was typed
        show_error=False,
        max_file_size=MOST_BYTES_EACH,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    kinds = {one["type"] for one in blocks.get_config_file()["components"]}
    frontend = Path(gr.__file__).parent / "templates" / "frontend"
    return Shell(_parts(page), styles(frontend, sorted(kinds)), _without)


def _head() -> str:
    script = compare.SCRIPT.replace("TAB_NAMES", json.dumps(_TABS))
    return f"<style>{compare.STYLE}</style>\n<script>{script}</script>\n\t\t"


def _early(sent: Mapping[str, Any], pictures: bool) -> str:
    """What is there before Gradio is: the pictures, where their tab is open, and what the script needs for the rest."""
    shown = f"{compare.PLAYER}{compare.SIDES}" if pictures else ""
    return f'<div id="early">{_TITLE}{shown}<script type="application/json">{in_page(sent)}</script></div>'


def _parts(page: Page) -> Callable[[str], tuple[Any, Callable[[], Parts]]]:
    head = _head()

    def parts(query: str) -> tuple[Any, Callable[[], Parts]]:
        place = address.read(query)
        state, asked = page.visits.state(), (place.asked, _tab(place))

        def make() -> Parts:
            sent, updates = page.opening.get("The page", asked, lambda: _first(page, place), state)
            early = _early(sent, _tab(place) == _TABS[0])
            return {name: _properties(update) for name, update in updates.items()}, head, early

        return (state, asked), make

    return parts


def _without(why: str) -> Parts:
    """The page without what its address asks for; its script presses `restore`."""
    sent = {"address": "", "state": "", "manifest": nothing(why)}
    return {"slow": {"value": message(why, "bad")}}, _head(), _early(sent, True)


def _first(page: Page, place: address.Place) -> tuple[dict[str, Any], dict[str, Any]]:
    found = page.visits.select(place.asked)
    updates = {**_updates(page, found, Asked()), "tabs": gr.Tabs(selected=_tab(place))}
    return {**_sent(page, found), "manifest": page.visits.manifest(found)}, updates


def _properties(update: Any) -> dict[str, Any]:
    """What an update of a component says, as its configuration has it."""
    if isinstance(update, str):
        return {"value": update}
    given = {name: value for name, value in update._constructor_args[0].items() if name != "__type__"}
    if "choices" in given:
        given["choices"] = [list(one) if isinstance(one, tuple) else [one, one] for one in given["choices"]]
    return given


def _draw_when_asked(drawers: dict[str, Any], limited: Callable[..., dict[str, Any]]) -> None:
    """A button for each tab, which the script presses when the tab is opened, and when what is chosen changes."""
    for name, (draw, inputs, outputs) in drawers.items():
        button = gr.Button(f"Draw {name}", elem_id=f"redraw-{name}", elem_classes="unseen")
        # what takes a second shows that it is under way
        long = {"show_progress": "full", "show_progress_on": outputs[1]} if name == "adapter" else {}
        button.click(inputs=inputs, **limited(f"The tab {_NAMES[name]}", draw, outputs), **{**FOLLOW, **long})


def _updates(page: Page, found: Selection, before: Asked) -> dict[str, Any]:
    """Of what is above the pictures, by `elem_id`, in the order of `menus` and `told`."""
    runs = page.runs(found.runs)
    said = warnings_and_notes(runs)
    if found.left_out:
        said += message(f"The menu has the first {len(found.prompts)} prompts; {found.left_out} more are left out.")
    return {
        "runs": menu(gr.CheckboxGroup, page.choices(), list(found.runs), list(before.runs)),
        "run-a": menu(gr.Dropdown, page.choices(found.runs), found.a, before.a),
        "run-b": menu(gr.Dropdown, page.choices(found.runs), found.b, before.b),
        "prompt": menu(gr.Dropdown, found.prompts, found.prompt, before.prompt),
        "seed": menu(gr.Dropdown, found.seeds, found.seed, before.seed),
        "variant": menu(gr.Dropdown, labelled(found.variants), found.variant, before.variant),
        "notes": gr.HTML(value=said, visible=bool(said)),
        "address": address.element(**_sent(page, found)),
    }


def _sent(page: Page, found: Selection) -> dict[str, str]:
    query = address.write(found.runs, found.a, found.b, found.prompt, found.seed, found.variant)
    return {"address": query, "state": page.visits.state()}


def _tab(place: address.Place) -> str:
    return place.tab if place.tab in _TABS else _TABS[0]


def _restore(page: Page) -> Any:
    def restore(search: str | None) -> tuple[Any, ...]:
        """What the address asks for; the rest is as when somebody opens the page for the first time."""
        place = address.read(search)
        found = page.visits.select(place.asked)
        return *_updates(page, found, Asked()).values(), gr.Tabs(selected=_tab(place))

    return restore


def _follow(page: Page, again: bool = False) -> Any:
    """Gives the function that follows a choice, or, `again`, a change of the folders."""

    def follow(
        names: list[str] | None, a: str | None, b: str | None, prompt: str | None, seed: int | None, variant: str
    ) -> tuple[Any, ...]:
        before = Asked(tuple(names or ()), a, b, prompt, seed, variant)
        found = page.visits.select(before, None if again else before.runs)
        return tuple(_updates(page, found, before).values())

    return follow


def _left(page: Page) -> Any:
    def left(request: gr.Request) -> None:
        """Somebody closed the page: nobody waits for the picture any more. Trainings go on."""
        try_it.stop_session(page, request.session_hash)
        page.stop_events.pop(request.session_hash or "", None)

    return left
