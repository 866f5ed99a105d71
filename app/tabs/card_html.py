"""The card of a run as HTML: every text that comes from a file is escaped, and pictures are in the page itself."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from reslora_sd.runs.run import Run, is_text

from .. import run_card
from ..downloads import address
from ..keeping import Kept
from ..library import key_of
from ..pictures import PictureView
from ..run_list import Item
from ..seeds import Group
from ..wording import method_name, with_tip
from .shared import message
from .text_html import results_table

_SIDE = 192
_FORMS = {
    "diffusers": "for diffusers",
    "kohya": "for ComfyUI and A1111 (kohya)",
    run_card.PEFT: "for PEFT (zip)",
}


def table(items: Sequence[Item], total: int, open_card: str | None) -> str:
    """The list of runs."""
    if not items:
        return message(f"None of the {total} runs has these words." if total else "There is no run yet.")
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Run", "Method", "State", "Steps", "Loss", "Note"))
    rows = "".join(_row(item, item.name == open_card) for item in items)
    return _table("All runs", heads, rows)


def _table(what: str, heads: str, rows: str) -> str:
    """A table that scrolls by itself where it is too wide, also by keyboard."""
    inner = f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{what}"><table class="list">{inner}</table></div>'


def _row(item: Item, is_open: bool) -> str:
    loss = f"{item.loss:.4f}" if item.loss is not None else ""
    note = item.note if len(item.note) <= 80 else f"{item.note[:80]}\N{HORIZONTAL ELLIPSIS}"
    steps = f"{item.step} of {item.steps}" if item.steps else str(item.step)
    method = with_tip(method_name(item.method), item.method)
    told = "".join(f"<td>{html.escape(text)}</td>" for text in (item.state, steps, loss, note))
    cells = f"<td>{method}</td>{told}"
    pin = ' <span class="pin">pinned</span>' if item.pinned else ""
    name = f'<th scope="row">{html.escape(item.name)}{pin}</th>'
    return f"<tr{' class=open' if is_open else ''}>{name}{cells}</tr>"


def card(name: str, run: Run, kept: Kept, token: str = "") -> str:
    """Everything about one run; `token` is the library's of it."""
    parts = [f"<h2>{html.escape(name)}</h2>"]
    if run.method:
        parts.append(
            message(f"Method: {method_name(run.method)}, in files and flags {run.method}. Folder: {run.path.name}")
        )
    parts.append(message(kept.note))
    parts.append(_downloads(run, token))
    code = run_card.code(run)
    if code:
        parts.append(f"<h3>Load it in Python</h3><pre tabindex=0>{html.escape(code)}</pre>")
    try:
        made = f"<pre tabindex=0>{html.escape(run_card.command(run))}</pre>"
    except ValueError as error:
        made = message(f"There is no command to show: {error}")
    parts.append(f"<h3>The command that made it</h3>{made}")
    parts.append(_pictures(name, run))
    if is_text(run.settings):
        parts.append(f"<h3>Its figures</h3>{results_table([Group(name, (run,))])}")
    parts.append(_measures(run))
    return f'<article class="card">{"".join(parts)}</article>'


def _downloads(run: Run, token: str) -> str:
    if is_text(run.settings):
        return message(f"A text run. {run_card.parts_of_text(run)}")
    links = []
    for form, use in _FORMS.items():
        file = run_card.lora_file(run, "kohya" if form == "kohya" else "diffusers")
        if file is not None:
            text = f"Download the LoRA {use}, {file.stat().st_size / 1e6:.1f} MB"
            links.append(_link(address(key_of(run.path), form, token), text, form))
    if not links:
        links.append(message("It has no LoRA to download yet: that is written when the training has ended."))
    if run.arguments:
        where = address(key_of(run.path), run_card.SETTINGS, token)
        links.append(_link(where, "Its settings, for --config", run_card.SETTINGS))
    return f'<p class="links">{"".join(links)}</p>'


def _link(where: str, text: str, what: str) -> str:
    return f'<a download id="get-{what}" href="{html.escape(where, quote=True)}">{html.escape(text)}</a>'


def _pictures(name: str, run: Run) -> str:
    rows = []
    for one in run_card.first_and_last(name, run):
        cells = "".join(_figure(view) for view in (one.first, one.last, one.real) if view is not None)
        quoted = f"\N{LEFT DOUBLE QUOTATION MARK}{html.escape(one.prompt)}\N{RIGHT DOUBLE QUOTATION MARK}"
        rows.append(f'<h4>{quoted}</h4><div class="figures">{cells}</div>')
    return f"<h3>First and last pictures</h3>{''.join(rows)}" if rows else ""


def _figure(view: PictureView) -> str:
    title = html.escape(view.title)
    if view.image is None:
        return f"<figure><figcaption>{html.escape(view.missing or view.title)}</figcaption></figure>"
    alt = html.escape(view.alt, quote=True)
    return f'<figure><img src="{data_address(view.image, _SIDE)}" alt="{alt}"><figcaption>{title}</figcaption></figure>'


def data_address(image: Image.Image, side: int) -> str:
    """A picture whose longer side has so many pixels, written into the page; enlarged by a whole factor, it keeps its
    pixels."""
    share = side / max(image.size)
    how = Image.Resampling.NEAREST if share >= 1 and share == int(share) else Image.Resampling.LANCZOS
    small = image.resize([max(1, round(length * share)) for length in image.size], how)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _measures(run: Run) -> str:
    found = run_card.measures(run)
    if not found:
        return ""
    heads = ("Step", "Change since the first pictures", "Distance from the real pictures", "Loss")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    rows = "".join(
        f'<tr><th scope="row">{one.step}</th><td>{_share(one.from_first)}</td><td>{_share(one.from_real)}</td>'
        f"<td>{f'{one.loss:.4f}' if one.loss is not None else ''}</td></tr>"
        for one in found
    )
    rule = (
        "Changes and distances are root mean squares over all pixels, in % of the range from black to white, as a mean "
        "over the first prompts. They say how much pictures change, not how good they are."
    )
    return f"<h3>Measures of its pictures</h3>{_table('Measures by step', head, rows)}{message(rule)}"


def _share(value: float | None) -> str:
    return f"{100 * value:.1f} %" if value is not None else ""


def settings_table(a: str | None, b: str | None, runs: Mapping[str, Run], only: bool) -> str:
    """Settings of two runs beside each other; those that differ are marked by a word too, not by colour alone."""
    if a not in runs or b not in runs or a is None or b is None or a == b:
        return message("Choose two runs as A and B above, to see what their settings differ in.")
    rows = run_card.compare_settings(runs[a], runs[b])
    count = sum(row.differs for row in rows)
    cells = "".join(
        f'<tr{" class=differs" if row.differs else ""}><th scope="row">{html.escape(row.name)}'
        f"{' <span class=pin>differs</span>' if row.differs else ''}</th><td>{html.escape(row.first)}</td>"
        f"<td>{html.escape(row.second)}</td></tr>"
        for row in rows
        if row.differs or not only
    )
    head = f'<th scope="col">Setting</th><th scope="col">{html.escape(a)}</th><th scope="col">{html.escape(b)}</th>'
    said = message(f"{count} of {len(rows)} settings differ.")
    return f"{said}{_table('Settings of two runs', head, cells)}"
