"""The page: what is above the tabs, the tabs, and what keeps them up to date."""

from __future__ import annotations

import json
import time
from typing import Any

import gradio as gr
from fastapi import FastAPI

from ..uploads import MOST_BYTES_EACH
from ..wording import variant_name
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
from .shared import FOLLOW, PRIVATE, Page, menu, pair_of, tab_of, when_open
from .style import CSS, HEAD, THEME, TOGGLE_DARK

_EVERY = 3.0
"""Seconds between looks at the folders."""
_TABS = ("compare", "curves", "adapter", "text", "try", "blind", "runs", "train")


def build(page: Page) -> gr.Blocks:
    """The whole page; nothing is read before somebody opens it."""
    blocks: gr.Blocks
    with gr.Blocks(title="LoRA and ResLoRA, step by step", analytics_enabled=False) as blocks:
        dark, restore = _build_head()
        with gr.Row(elem_classes="tight"):
            chosen = Ticks([], label="Runs", elem_id="runs", scale=3, min_width=260)
            first = Menu([], label="A", elem_id="run-a", scale=1, min_width=220)
            second = Menu([], label="B, against A", elem_id="run-b", scale=1, min_width=220)
        notes = gr.HTML(elem_id="notes", visible=False)
        seen, tab, asked = gr.State(""), gr.State("compare"), gr.Textbox(visible=False)
        pair = (first, second)
        drawers: dict[str, Any] = {}
        with gr.Tabs(overflow_behavior="wrap", elem_id="tabs") as tabs:
            with gr.Tab("Compare", id="compare"):
                shown = compare.build(page, chosen, pair, notes, seen)
            with gr.Tab("Curves", id="curves"):
                drawers["curves"] = curves.build(page, chosen, pair, shown.opened)
            with gr.Tab("Inside the adapter", id="adapter"):
                drawers["adapter"] = adapter.build(page, chosen, pair)
            with gr.Tab("Text", id="text"):
                drawers["text"] = text.build(page, chosen)
            with gr.Tab("Try it", id="try"):
                drawers["try"] = try_it.build(page, chosen)
                try_grid.build(page, chosen, drawers["try"][1][1])
            with gr.Tab("Blind test", id="blind"):
                drawers["blind"] = blind_test.build(page, chosen, pair)
            with gr.Tab("Runs", id="runs"):
                drawers["runs"] = runs.build(page, chosen, pair)
            with gr.Tab("Train here", id="train"):
                drawers["train"] = train_here.build(page)
        dark.click(None, None, None, js=TOGGLE_DARK)
        inside = [shown.prompt, shown.seed, shown.variant, shown.opened, shown.steps]
        restored = [chosen, *pair, seen, *inside, tabs, tab]
        for trigger in (blocks.load, restore.click):
            trigger(_restore(page), asked, restored, js="() => [location.search]", **PRIVATE)
        _keep_current(page, blocks, (tabs, tab), drawers, (chosen, *pair, seen))
        blocks.unload(_left(page))
    blocks.queue(default_concurrency_limit=8, max_size=64)
    return blocks


def _build_head() -> tuple[gr.Button, gr.Button]:
    """The title; gives the button of the theme, and that of a script which nobody sees."""
    with gr.Row(elem_id="head"):
        gr.HTML("<h1>LoRA and ResLoRA, step by step</h1>", elem_id="title", padding=False)
        dark = gr.Button("Light or dark", size="sm", min_width=100, scale=0)
        return dark, gr.Button("Show what the address says", elem_id="restore")


def mount(app: FastAPI, page: Page, head: str = "") -> None:
    """Puts the whole page at the root of an app.

    Args:
        head: more of the page's HTML head, before ours.
    """
    gr.mount_gradio_app(
        app,
        build(page),
        path="/",
        theme=THEME,
        css=CSS + sharing_style.CSS + figures_style.CSS,
        head=head + HEAD.replace("TAB_NAMES", json.dumps(_TABS)) + blind_test.HEAD,
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


def _keep_current(
    page: Page, blocks: gr.Blocks, tab: tuple[gr.Tabs, gr.State], drawers: dict[str, Any], above: Any
) -> None:
    """Draws a tab when it is opened and when its inputs change, and all anew when files have changed."""
    chosen, first, second, seen = above
    tabs, open_tab = tab
    blocks.load(*drawers["train"], **PRIVATE)
    chosen.change(_pair(page), [chosen, first, second], [first, second], **PRIVATE)
    clock = gr.Timer(_EVERY)
    clock.tick(_look(page), [seen, chosen, first, second], [chosen, first, second, seen], **PRIVATE)
    tabs.select(tab_of(_TABS), None, open_tab, **FOLLOW)
    for name, (draw, inputs, outputs) in drawers.items():
        only_open = when_open(draw, name, len(outputs))
        # a training that starts or ends changes no file of a run
        often = [clock.tick] if name == "train" else []
        # what takes a second shows that it is under way
        slow = {"show_progress": "full", "show_progress_on": outputs[1]} if name == "adapter" else {}
        for trigger in (open_tab.change, chosen.change, first.change, second.change, seen.change, *often):
            trigger(only_open, [open_tab, *inputs], outputs, **{**PRIVATE, **slow})


def _choices(page: Page) -> Any:
    def choices(names: list[str] | None, a: str | None, b: str | None) -> tuple[Any, ...]:
        known = page.choices()
        kept = [key for _, key in known if key in (names or [])] or [key for _, key in known[:2]]
        new_a, new_b = pair_of(page.keyed(kept), a, b)
        return (
            menu(gr.CheckboxGroup, known, kept, names),
            menu(gr.Dropdown, page.choices(kept), new_a, a),
            menu(gr.Dropdown, page.choices(kept), new_b, b),
            _state(page),
        )

    return choices


def _state(page: Page) -> str:
    """Differs once a file of a run has changed."""
    return str(hash(page.library.state()))


def _restore(page: Page) -> Any:
    def restore(search: str | None) -> tuple[Any, ...]:
        """What the address asks for; the rest is as when somebody opens the page for the first time."""
        place = address.read(search)
        known = page.choices()
        asked = {page.library.key(text) for text in place.runs}
        kept = [key for _, key in known if key in asked] or [key for _, key in known[:2]]
        a, b = pair_of(page.keyed(kept), page.library.key(place.a), page.library.key(place.b))
        name = place.tab if place.tab in _TABS else _TABS[0]
        return (
            gr.CheckboxGroup(choices=known, value=kept),
            gr.Dropdown(choices=page.choices(kept), value=a),
            gr.Dropdown(choices=page.choices(kept), value=b),
            f"{_state(page)} {time.time_ns()}",  # so that what follows from it is done anew
            *(
                gr.skip() if value is None else gr.Dropdown(choices=[(name, value)], value=value)
                for name, value in (
                    (place.prompt or "", place.prompt),
                    (str(place.seed), place.seed),
                    (variant_name(place.variant or ""), place.variant),
                )
            ),
            compare.LAST if place.step is None else place.step,
            [],
            gr.Tabs(selected=name),
            name,
        )

    return restore


def _look(page: Page) -> Any:
    choices = _choices(page)

    def look(seen: str, names: list[str], a: str | None, b: str | None) -> tuple[Any, ...]:
        if _state(page) == seen.partition(" ")[0]:
            return tuple(gr.skip() for _ in range(4))
        return tuple(choices(names, a, b))

    return look


def _pair(page: Page) -> Any:
    def pair(names: list[str], a: str | None, b: str | None) -> tuple[Any, Any]:
        known = page.choices(names)
        new_a, new_b = pair_of(page.keyed(names), a, b)
        return menu(gr.Dropdown, known, new_a, a), menu(gr.Dropdown, known, new_b, b)

    return pair


def _left(page: Page) -> Any:
    def left(request: gr.Request) -> None:
        """Somebody closed the page: nobody waits for the picture any more. Trainings go on."""
        try_it.stop_session(page, request.session_hash)
        page.stop_events.pop(request.session_hash or "", None)

    return left
