"""The tab Runs: a list to search and sort, the card of one run with its downloads, and the settings of two runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from reslora_sd.runs.reader import read_run, signature

from .. import keeping, run_list
from ..library import key_of
from . import share
from .card_html import card, settings_table, table
from .menus import Menu
from .shared import PRIVATE, Page, menu, message

_WITH_TOKEN = (
    "(which, token, ...rest) => [which, document.querySelector('#card [data-run]')?.dataset.run ?? '', ...rest]"
)
"""The token of the card that the browser shows: by the time that somebody clicks, its name can be another run's."""


def build(page: Page, chosen: gr.CheckboxGroup, pair: tuple[gr.Dropdown, gr.Dropdown]) -> Any:
    """Lays the tab out; gives the function that draws it, its inputs and outputs."""
    with gr.Row(elem_classes="tight"):
        words = gr.Textbox(
            label="Search", placeholder="name, method, model or note", max_length=100, elem_id="search-runs"
        )
        order = gr.Dropdown(list(run_list.ORDERS), value=run_list.NEWEST, label="Order", elem_id="order-runs")
        which = Menu([], label="Card of", elem_id="card-of")
    listed = gr.HTML(elem_id="run-list")
    shown = gr.HTML(elem_id="card")
    said = gr.HTML(elem_id="card-said")
    token = gr.State("")  # of the run whose card was drawn last
    (trash, *fields), changes = _build_keeping(page, chosen, which, said)
    with gr.Accordion("Settings of A and B", open=False, elem_id="two-settings"):
        only = gr.Checkbox(True, label="Only what differs")
        settings = gr.HTML(elem_id="settings")
    share.build(page, chosen)
    inputs: list[Any] = [*pair, words, order, which, only, token]
    outputs: list[Any] = [listed, which, shown, settings, trash, token, *fields]
    draw = _draw(page)
    for trigger in (words.input, order.input, which.input, only.input):
        trigger(draw, inputs, outputs, trigger_mode="always_last", **PRIVATE)
    for change in changes:
        change.then(draw, inputs, outputs, **PRIVATE)
    return draw, inputs, outputs


def _build_keeping(page: Page, chosen: gr.CheckboxGroup, which: gr.Dropdown, said: gr.HTML) -> tuple[Any, Any]:
    """What changes a run; gives the list of deleted runs with the fields name, note and pin, and the changes."""
    token = gr.Textbox(visible=False)
    with gr.Row(elem_classes="tight"):
        title = gr.Textbox(
            label="Name (empty: its method)", max_length=keeping.LONGEST_TITLE, min_width=180, elem_id="run-title"
        )
        note = gr.Textbox(label="Note", max_length=keeping.LONGEST_NOTE, lines=1, max_lines=6, scale=3, elem_id="note")
        pinned = gr.Checkbox(label="Pinned: comes first", min_width=220, elem_id="pin")
    with gr.Row(elem_classes="player"):
        save = gr.Button(
            "Save name, note and pin", size="sm", variant="primary", elem_id="keep", scale=0, min_width=200
        )
        delete = gr.Button("Delete this run", size="sm", variant="stop", elem_id="delete-run", scale=0, min_width=150)
    with gr.Row(elem_classes="player"):
        trash = Menu([], label="Deleted runs", elem_id="trash", scale=3, min_width=240, visible=False)
        back = gr.Button("Bring it back", size="sm", elem_id="bring-back", scale=0, min_width=150, visible=False)
    changes = [
        save.click(
            _keep(page), [which, token, title, note, pinned, chosen], [said, which, chosen], js=_WITH_TOKEN, **PRIVATE
        ),
        delete.click(
            _delete(page), [which, token, chosen], [said, which, chosen, trash, back], js=_WITH_TOKEN, **PRIVATE
        ),
        back.click(_bring_back(page), [trash, chosen], [said, which, chosen, trash, back], **PRIVATE),
    ]
    trash.change(lambda place: gr.Button(visible=place is not None), trash, back, **PRIVATE)
    return (trash, title, note, pinned), changes


def _draw(page: Page) -> Any:
    def draw(
        a: str | None, b: str | None, words: str | None, order: str, which: str | None, only: bool, before: str
    ) -> tuple[Any, ...]:
        items = run_list.items(page.library)
        found = run_list.chosen_items(items, words or "", order)  # none where the tab has just come
        known = {item.key: item.name for item in items}
        kept = which or next((key for key in (a, *(item.key for item in found)) if key in known), None)
        # what is open stays open while one searches
        offered = {item.key for item in found} | {kept}
        run = page.keyed([kept or ""]).get(kept or "")
        name = known.get(kept or "", kept)
        two = page.runs([key for key in (a, b) if key is not None])
        token = page.library.token(run.path) if run is not None else ""
        return (
            table(found, len(items), name) + _left_out(page),
            menu(gr.Dropdown, [(item.name, item.key) for item in items if item.key in offered], kept, which),
            f'<div data-run="{token}">'
            f"{_or_why(f'The card of {name}', _card, name, run.path, token, signature(run.path))}</div>"
            if run is not None and name
            else message(f"There is no run {name}." if name else "There is no run."),
            _or_why("The settings of A and B", settings_table, *page.shown(a, b), two, only),
            _trash(page),
            token,
            # what somebody types stays while it is the same run
            *(_fields(page, run.path if run is not None else None) if token != before else [gr.skip()] * 3),
        )

    return draw


def _left_out(page: Page) -> str:
    folders = page.library.left_out
    return message(f"Left out, as their names are no UTF-8: {', '.join(folders)[:500]}.") if folders else ""


def _or_why(what: str, draw: Callable[..., str], *values: Any) -> str:
    """What is drawn, or why it can't be: whatever a file holds, the list and the deleted runs stay to be seen."""
    try:
        return draw(*values)
    except Exception as error:
        return message(f"{what} can't be shown: {type(error).__name__}: {error!s:.300}", "bad")


@functools.lru_cache(maxsize=32)
def _card(name: str, path: Path, token: str, _now: object) -> str:
    """Kept while the run's files stay as they are."""
    return card(name, read_run(path), keeping.read_kept(path), token)


def _fields(page: Page, path: Path | None) -> tuple[str, str, bool]:
    kept = page.library.kept(path) if path is not None else keeping.Kept()
    return kept.title, kept.note, kept.pinned


def _keep(page: Page) -> Any:
    def keep(
        which: str | None, token: str, title: str, note: str, pinned: bool, chosen: Sequence[str]
    ) -> tuple[Any, ...]:
        try:
            page.library.find(which, token)
            new = page.library.keep(which, keeping.Kept(title.strip(), note.strip(), bool(pinned)), token)
        except (ValueError, OSError) as error:
            return message(str(error), "bad"), gr.skip(), gr.skip()
        return message(f"Kept for {new}.", "good"), *_after(page, chosen, which)

    return keep


def _delete(page: Page) -> Any:
    def delete(which: str | None, token: str, chosen: Sequence[str]) -> tuple[Any, ...]:
        try:
            (name,) = page.shown(which)
            place = page.library.discard(which, token)
        except (ValueError, OSError) as error:
            return message(str(error), "bad"), *[gr.skip()] * 4
        text = f"{name} is in {place} now. Nothing of it is lost: bring it back below, or remove that folder yourself."
        deleted = next((name for name, one in _deleted(page).items() if one == place), None)
        return (
            message(text, "good"),
            *_after(page, [one for one in chosen if one != which]),
            _trash(page, deleted),
            gr.Button(visible=True),
        )

    return delete


def _bring_back(page: Page) -> Any:
    def bring_back(name: str | None, chosen: Sequence[str]) -> tuple[Any, ...]:
        try:
            place = _deleted(page).get(name or "")
            if place is None:
                raise ValueError("Choose a deleted run.")
            run = keeping.bring_back(place)
        except (ValueError, OSError) as error:
            return message(str(error), "bad"), *[gr.skip()] * 4
        (new,) = page.shown(key_of(run))
        rest = _deleted(page)
        said = f"{new} is back in {run}." if new else f"It is back in {run}, where this page looks for no runs."
        return (
            message(said, "good"),
            *_after(page, [*chosen, key_of(run)], key_of(run) if new else None),
            _trash(page, next(iter(rest), None)),
            gr.Button(visible=bool(rest)),
        )

    return bring_back


def _after(page: Page, chosen: Sequence[str], which: str | None = None) -> tuple[Any, Any]:
    """The menus of runs after one has gone or come, or has another name; the ticks and the card by their keys."""
    choices = page.choices()
    keys = [key for _, key in choices]
    return (
        gr.Dropdown(choices=choices, value=which if which in keys else next(iter(keys), None)),
        gr.CheckboxGroup(choices=choices, value=[key for key in keys if key in chosen]),
    )


def _deleted(page: Page) -> dict[str, Any]:
    return dict(keeping.trashed(page.library.parents()))


def _trash(page: Page, value: Any = None) -> Any:
    names = list(_deleted(page))
    more = {"value": value} if value is not None else {}
    return gr.Dropdown(choices=names, visible=bool(names), **more)
