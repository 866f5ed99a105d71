"""Below the list of runs: what can be given to others, a comparison as one HTML file or as a Space."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .. import exporting
from .shared import PRIVATE, Page, message

_FILE, _SPACE = "one HTML file", "a Space for the Hugging Face Hub (zip)"


def build(page: Page, chosen: gr.CheckboxGroup) -> None:
    """Lays it out and joins its events."""
    with gr.Accordion("Share a comparison of the ticked runs", open=False, elem_id="share"):
        gr.HTML(
            message(
                "The file holds the pictures, the step slider and the wipe. It needs no server, and asks for nothing "
                "elsewhere. It names the runs and the prompts."
            )
        )
        with gr.Row(elem_classes="tight"):
            title = gr.Textbox(label="Title (empty: the runs' names)", max_length=100, elem_id="share-title")
            kind = gr.Radio([_FILE, _SPACE], value=_FILE, label="As", elem_id="share-kind")
        with gr.Row(elem_classes="player"):
            make = gr.Button("Make it", variant="primary", elem_id="make-share", min_width=120, scale=0)
            file = gr.DownloadButton("Download", visible=False, elem_id="get-share", min_width=120, scale=0)
        told = gr.HTML(elem_id="share-said")
    make.click(_make(page), [chosen, title, kind], [file, told], concurrency_limit=1, **PRIVATE)


def _make(page: Page) -> Any:
    def make(names: list[str], title: str, kind: str) -> tuple[Any, str]:
        try:
            runs = {name: run for name, run in page.runs(names).items() if run.pictures}
            said = title.strip() or " and ".join(runs)
            text = exporting.comparison(runs, said)
            data = exporting.space_zip(text, said) if kind == _SPACE else text.encode()
        except ValueError as error:
            return gr.DownloadButton(visible=False), message(str(error), "bad")
        target = page.passing.new(f"comparison.{'zip' if kind == _SPACE else 'html'}")
        target.write_bytes(data)
        label = f"Download ({len(data) / 1e6:.1f} MB)"
        return gr.DownloadButton(label, value=page.passing.keep(target), visible=True), ""

    return make
