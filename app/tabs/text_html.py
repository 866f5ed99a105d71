"""Figures and answers of text runs as HTML: every text that comes from a file is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from reslora_sd.runs.run import Run

from ..seeds import Group
from ..text_runs import Answered, Question, figures_by_form, form_of, results
from ..wording import variant_name, with_tip
from .shared import message


def results_table(groups: Sequence[Group]) -> str:
    """A row for each run, or group of seeds, and form of its model; a column for each figure."""
    having = [kept for group in groups if (kept := group.having(results)) is not None]
    rows = [(len(group.runs), *row) for group in having for row in figures_by_form([group])]
    if not rows:
        return message("No ticked text run has results yet: results.json is written at the end.")
    names = dict.fromkeys(name for *_, values in rows for name in values)
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("Run", "Form", *names))
    body = "".join(
        f'<tr><th scope="row">{html.escape(group)}</th><td>{with_tip(variant_name(form), form)}</td>'
        f"{''.join(f'<td>{_cell(values.get(name, []), count)}</td>' for name in names)}</tr>"
        for count, group, form, values in rows
    )
    table = f'<table class="list numbers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    several = [group for group in having if len(group.runs) + group.left_out > 1]
    said = "".join(message(group.told("in brackets")) for group in several)
    return f'{said}<div class="wide" tabindex="0" role="region" aria-label="Figures by merge">{table}</div>'


def _cell(values: Sequence[float], runs: int) -> str:
    """The mean of what so many runs have, and of how many it is where some lack it."""
    if not values:
        return ""
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    lacking = f", {len(values)} of {runs} seeds" if len(values) < runs else ""
    return f"{sum(values) / len(values):.4f}{spread}{lacking}"


def question_list(found: Sequence[Question], runs: Mapping[str, Run], form: str, first: int) -> str:
    """Questions with what each run answered beside each other.

    Args:
        first: the number of the first one.
    """
    return "".join(_question(question, runs, form, first + place) for place, question in enumerate(found))


def _question(question: Question, runs: Mapping[str, Run], form: str, number: int) -> str:
    part = f" ({html.escape(question.part)})" if question.part else ""
    cards = "".join(_card(name, run, question.said.get(name), form) for name, run in runs.items())
    return (
        f'<article class="asked"><h3>{number}{part}</h3><p class="text">{html.escape(question.prompt)}</p>'
        f'<p class="say">Right answer:</p><p class="text"><b>{html.escape(question.target)}</b></p>'
        f'<div class="answers">{cards}</div></article>'
    )


def _card(name: str, run: Run, one: Answered | None, form: str) -> str:
    used = form_of(run, form)
    head = f"{html.escape(name)} <small>{with_tip(variant_name(used), used)}</small>"
    if one is None or used not in one.answers:
        return f'<section><h4>{head}</h4><p class="say">It wasn\'t asked, or has no such form.</p></section>'
    mark, text = one.right.get(used), one.answers[used]
    word = {True: "right", False: "wrong", None: ""}[mark]
    told = html.escape(text) if text is not None else "<i>no answer: the prompt was too long</i>"
    tag = f' <span class="mark {word}">{word}</span>' if word else ""
    return f'<section><h4>{head}{tag}</h4><p class="text">{told}</p></section>'
