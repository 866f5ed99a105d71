"""The form of Train here: the pictures with their captions, the prompts, and the settings."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from reslora_sd.diffusion.pictures import CAPTIONS_FILE
from reslora_sd.runs.names import METHODS

from ..captions import LONGEST
from ..training_request import BUILT_IN, EMBEDDED, EXTRAS, OWN, SCHEDULES, TrainingRequest
from ..uploads import KINDS, Picked, pick, texts
from ..wording import method_name
from .menus import Menu
from .shared import FOLLOW, PRIVATE, message

INCLUDED, UPLOAD, FOLDER = "Included drawings", "Upload pictures", "Folder on this machine"
OWN_SCHEDULE = "the script's own"
_MOST_PROMPTS = 4
"""Captions that are taken as prompts."""
_WITH_CAPTIONS = """(...values) => {
  const typed = [...document.querySelectorAll("[data-caption]")].map((one) => [one.dataset.caption, one.value]);
  values[%d] = JSON.stringify(Object.fromEntries(typed));
  return values;
}"""
"""The captions stand in the page alone until something is done with them."""


@dataclass
class Form:
    """Components by the name of what they hold."""

    fields: dict[str, Any]

    def inputs(self) -> list[Any]:
        """In the order of `read`."""
        return list(self.fields.values())

    def with_captions(self) -> str:
        """A script that adds to the inputs the captions as they stand in the page."""
        return _WITH_CAPTIONS % list(self.fields).index("typed")

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """What was chosen and typed, by name."""
        return dict(zip(self.fields, values, strict=True))


def build() -> tuple[Form, gr.Button]:
    """Lays the form out; gives it and the button to start."""
    with gr.Row():
        with gr.Column(min_width=300):
            data = _build_data()
        with gr.Column(min_width=300):
            settings = _build_settings()
    form = Form({**data, **settings})
    start = gr.Button("Start", variant="primary", elem_id="start-training")
    fields, suggested = form.fields, [form.fields[name] for name in ("steps", "rate", "every")]
    fields["source"].change(
        _suggest,
        [fields["source"], fields["model"], fields["prompts"], *suggested],
        [fields["prompts"], *suggested],
        **PRIVATE,
    )
    return form, start


def _build_data() -> dict[str, Any]:
    """The pictures and the prompts."""
    source = gr.Radio([INCLUDED, UPLOAD, FOLDER], value=INCLUDED, label="Pictures", elem_id="source")
    files = gr.File(
        label="Pictures and, if you have them, their captions",
        file_count="multiple",
        visible=False,
        file_types=[*KINDS, ".jsonl", ".csv", ".txt"],
        elem_id="upload",
        height=150,
    )
    said = gr.HTML(elem_id="upload-said")
    thumbnails = gr.HTML(elem_id="picked")
    caption = gr.Textbox(
        "",
        label="Caption of pictures without one",
        info="Left empty: the file's name in words.",
        visible=False,
        elem_id="caption",
        max_length=LONGEST,
    )
    path = gr.Textbox("", label=f"Folder with {CAPTIONS_FILE} or .txt files", visible=False, elem_id="path")
    prompts = gr.Textbox(
        label="Validation prompts, one a line",
        lines=4,
        value=BUILT_IN.prompts,
        placeholder="Left empty: some of the captions.",
        elem_id="prompts",
    )
    picked, taken, typed = gr.State([]), gr.State(""), gr.Textbox(visible=False)
    source.change(_show_source, source, [files, said, thumbnails, caption, path], **FOLLOW)
    data = {"source": source, "picked": picked, "typed": typed, "taken": taken, "caption": caption, "path": path}
    files.change(
        _look_at_files,
        [files, picked, typed, taken, caption, prompts],
        [said, thumbnails, picked, taken, prompts],
        js=_WITH_CAPTIONS % 2,
        api_visibility="private",
    )
    return {**data, "prompts": prompts}


def _show_source(source: str) -> tuple[Any, ...]:
    upload = source == UPLOAD
    return (
        gr.File(visible=upload),
        *(gr.HTML(visible=upload) for _ in range(2)),
        gr.Textbox(visible=upload),
        gr.Textbox(visible=source == FOLDER),
    )


def _build_settings() -> dict[str, Any]:
    default = TrainingRequest("first")
    name = gr.Textbox(default.name, label="Name", elem_id="training-name", max_length=48)
    methods = gr.CheckboxGroup(
        [(method_name(one), one) for one in METHODS], value=list(default.methods), label="Methods, equal in all else"
    )
    model = gr.Textbox(default.model, label="Base model", info=f"{EMBEDDED}, a name on the Hub, or a folder")

    def number(value: float | None, label: str, **more: Any) -> gr.Number:
        return gr.Number(value, label=label, min_width=90, **more)

    with gr.Row():
        steps = number(default.steps, "Steps", precision=0, elem_id="training-steps")
        batch = number(default.batch, "Batch size", precision=0)
        rate = number(default.learning_rate, "Learning rate", step=0.0001)
    with gr.Row():
        rank = number(default.rank, "Rank", precision=0)
        seed = number(default.seed, "Seed", precision=0)
        every = number(default.validation_steps, "Pictures every", precision=0, elem_id="training-every")
    usual = {"name": name, "methods": methods, "model": model, "steps": steps, "batch": batch, "rate": rate}
    with gr.Accordion("More settings", open=False, elem_id="more-settings"):
        gr.HTML(message("Left empty, each is as the training script has it for this model and these pictures."))
        schedule = Menu([OWN_SCHEDULE, *SCHEDULES], value=OWN_SCHEDULE, label="Schedule of the rate")
        with gr.Row():
            extras: dict[str, Any] = {  # no gr.Number: an empty one shows 0, and sends it
                flag: gr.Textbox("", label=label, min_width=140, max_length=20, elem_id=f"training-{flag}")
                for flag, (label, _, _) in EXTRAS.items()
            }
    return {**usual, "rank": rank, "seed": seed, "every": every, "schedule": schedule, **extras}


def _suggest(source: str, model: str, *typed: Any) -> tuple[Any, ...]:
    """Prompts, steps, rate and interval that fit these pictures on the embedded model; what was typed stays."""
    if model.strip() != EMBEDDED:
        return typed
    before, now = (OWN, BUILT_IN) if source == INCLUDED else (BUILT_IN, OWN)
    pairs = zip(typed, astuple(before), astuple(now), strict=True)
    return tuple(new if one == old else one for one, old, new in pairs)


def _look_at_files(
    files: list[str] | None, before: list[Picked], typed: str, taken: str, caption: str, prompts: str
) -> tuple[Any, ...]:
    """Shows what was uploaded, each picture with the caption that it has or that was typed before."""
    pictures, notes = pick([Path(file) for file in files or []])
    edited = {before[place].path: text for place, text in read_typed(typed).items() if place < len(before)}
    now = {place: edited[one.path] for place, one in enumerate(pictures) if edited.get(one.path)}
    new = prompts_of(pictures, caption, now)
    free = not prompts.strip() or prompts in (taken, BUILT_IN.prompts)
    said = f"{len(pictures)} pictures to train on." if len(pictures) != 1 else "One picture to train on."
    return (
        message(said if files else "") + "".join(message(note, "bad") for note in notes),
        _thumbnails(pictures, caption, now),
        pictures,
        new,
        new if free else prompts,
    )


def prompts_of(pictures: Sequence[Picked], caption: str, typed: dict[int, str]) -> str:
    """Some captions as prompts, one a line."""
    return "\n".join(list(dict.fromkeys(texts(pictures, caption, typed)))[:_MOST_PROMPTS])


def read_typed(typed: str | None) -> dict[int, str]:
    """Captions as the page has them, by place."""
    try:
        found = json.loads(typed or "{}")
    except ValueError:
        return {}
    rows = found.items() if isinstance(found, dict) else ()
    return {int(place): text for place, text in rows if place.isascii() and place.isdigit() and isinstance(text, str)}


def _thumbnails(pictures: Sequence[Picked], caption: str, typed: dict[int, str]) -> str:
    """Each picture with a field for its caption."""
    rows = []
    for place, (one, text) in enumerate(zip(pictures, texts(pictures, caption, {}), strict=True)):
        name, own = html.escape(one.name, quote=True), html.escape(typed.get(place, one.caption))
        rows.append(
            f'<div class="one"><img src="{one.thumbnail}" alt="{name}" title="{name}">'
            f'<textarea data-caption="{place}" aria-label="Caption of {name}" maxlength="{LONGEST}" rows="3" '
            f'placeholder="{html.escape(text, quote=True)}">{own}</textarea></div>'
        )
    return f'<div class="picked">{"".join(rows)}</div>' if rows else ""
