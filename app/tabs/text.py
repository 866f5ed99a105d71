"""The tab Text: figures of text runs by merge and by epoch, and what each of them answered, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from reslora_sd.runs.run import Run

from .. import plots, seeds, text_runs
from ..wording import labelled
from .menus import Menu
from .shared import FOLLOW, Page, menu, message
from .text_html import question_list, results_table

MOST_AT_ONCE = 10
"""Questions of a page of the list."""
_MOST_RUNS = 6


def build(page: Page, chosen: gr.CheckboxGroup) -> Any:
    """Lays the tab out; gives the function that draws it, its inputs and outputs."""
    how = gr.Radio([seeds.EACH, seeds.MEAN], value=seeds.EACH, label="Figures of", elem_id="text-lines")
    table = gr.HTML(elem_id="text-results")
    epochs = gr.HTML(elem_id="text-epochs")
    with gr.Row(elem_classes="tight"):
        form = Menu([], label="Answers of the model", elem_id="text-form", min_width=180)
        kind = gr.Dropdown(list(text_runs.KINDS), value=text_runs.KINDS[0], label="Questions", min_width=180)
        words = gr.Textbox(label="Search", placeholder="question or answer", max_length=200, elem_id="text-words")
    with gr.Row(elem_classes="player"):
        back = gr.Button("\N{LEFTWARDS ARROW} Before", size="sm", elem_id="text-back", min_width=90, scale=0)
        forth = gr.Button("After \N{RIGHTWARDS ARROW}", size="sm", elem_id="text-forth", min_width=90, scale=0)
        told = gr.HTML(elem_id="text-said")
    answers = gr.HTML(elem_id="text-answers")
    first = gr.State(0)
    draw = _draw(page)
    asked: list[Any] = [chosen, form, kind, words, first]
    shown: list[Any] = [form, told, answers, first]
    how.input(draw, [how, *asked], [table, epochs, *shown], **FOLLOW)
    for trigger in (form.input, kind.input, words.input):
        trigger(_answers(page, 0), asked, shown, **FOLLOW)
    back.click(_answers(page, -1), asked, shown, **FOLLOW)
    forth.click(_answers(page, 1), asked, shown, **FOLLOW)
    return draw, [how, *asked], [table, epochs, *shown]


def _draw(page: Page) -> Any:
    answers = _answers(page)

    def draw(how: str, names: list[str], form: str | None, kind: str, words: str, first: int) -> tuple[Any, ...]:
        runs = text_runs.of_text(page.runs(names))
        if not runs:
            said = message("No ticked run is a text run. Those of train_nlg_reslora.py and train_nlu_reslora.py are.")
            return said, "", *answers(names, form, kind, words, first)
        groups = seeds.groups(runs, how == seeds.MEAN)
        found = text_runs.by_epoch(groups)
        drawn = [
            plots.figure(lines, title, f"epochs-{place}", unit=title.rsplit(" ", 1)[1])
            for place, (title, lines) in enumerate(found.items())
        ]
        table = message(seeds.none_together(groups, how)) + results_table(groups)
        return table, plots.side_by_side(drawn), *answers(names, form, kind, words, first)

    return draw


def _answers(page: Page, move: int | None = None) -> Any:
    """Gives the function that lists the answers.

    Args:
        move: pages to go on; 0 for back to the first one, left out for where the list is.
    """

    def answers(names: list[str], form: str | None, kind: str, words: str, first: int) -> tuple[Any, ...]:
        runs, notes = _with_answers(text_runs.of_text(page.runs(names)))
        known = text_runs.forms(runs)
        new = form if form in known else next(iter(known), None)
        offered = menu(gr.Dropdown, labelled(known), new, form)
        if new is None:
            said = "" if notes else message("No ticked run has kept answers: answers.jsonl is written at the end.")
            return offered, said + notes, "", 0
        found = text_runs.chosen(runs, new, words or "", kind)
        start = 0 if move == 0 else max(0, first + (move or 0) * MOST_AT_ONCE)
        start = min(start, max(0, (len(found) - 1) // MOST_AT_ONCE * MOST_AT_ONCE))
        part = found[start : start + MOST_AT_ONCE]
        said = f"{start + 1} to {start + len(part)} of {len(found)} questions." if part else "No question matches."
        return offered, message(said) + notes, question_list(part, runs, new, start + 1), start

    return answers


def _with_answers(found: Mapping[str, Run]) -> tuple[dict[str, Run], str]:
    """The first runs that kept answers, and as HTML which others are left out, and what of their files is."""
    runs: dict[str, Run] = {}
    left_out, room = [], text_runs.MOST_BYTES
    for name, run in found.items():
        size = text_runs.size_of_answers(run)
        if not size:
            continue
        if len(runs) == _MOST_RUNS or size > room:
            left_out.append(name)
            continue
        room -= size
        runs[name] = run
    most = f"{_MOST_RUNS} runs, of {text_runs.MOST_BYTES / 1e6:.0f} MB together"
    said = [f"Answers of at most {most}, are shown: left out are {', '.join(left_out)}."] if left_out else []
    said += [f"{name}: {note}" for name, run in runs.items() for note in text_runs.kept_answers(run).notes]
    return {name: run for name, run in runs.items() if text_runs.answers(run)}, "".join(map(message, said))
