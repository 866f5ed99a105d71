"""The tab Train here: both methods on one folder of pictures with equal settings, watched while they go on."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import gradio as gr

from reslora_sd.diffusion.pictures import CAPTIONS_FILE
from reslora_sd.runs.names import METHODS, UNMERGED
from reslora_sd.runs.paths import inside
from reslora_sd.runs.reader import read_run
from reslora_sd.runs.run import Run

from .. import curves, grids, training
from ..training_request import BUILT_IN, EMBEDDED, OWN, TrainingRequest, check_name
from ..uploads import KINDS, save_uploads
from .menus import Menu
from .shared import PRIVATE, Page, menu, message

_BUILT_IN, _UPLOAD, _PATH = "Included drawings", "Upload pictures", "Folder on this machine"


def build(page: Page) -> Any:
    """Lays the tab out; gives the function that shows how the trainings are, its inputs and outputs."""
    with gr.Row():
        with gr.Column(min_width=300):
            data = _build_data()
            start = gr.Button("Start", variant="primary", elem_id="start-training")
        settings = _build_settings()
    _, _, model, steps, _, rate, _, _, every = settings
    source, prompts, suggested = data[0], data[-1], [steps, rate, every]
    source.change(_suggest, [source, model, prompts, *suggested], [prompts, *suggested], **PRIVATE)
    told = gr.HTML(elem_id="train-said")
    progress = gr.HTML(elem_id="trainings")
    with gr.Row(elem_classes="tight"):
        which = Menu([], label="Training", elem_id="which-training", scale=3, min_width=200)
        stop = gr.Button("Stop it", elem_id="stop-training", min_width=100)
        resume = gr.Button("Go on with it", elem_id="resume-training", min_width=120)
    watch, watched = _watch(page), [progress, which, *_build_live()]
    started = start.click(_start(page), [*data, *settings], told, **PRIVATE)
    started.then(watch, which, watched, **PRIVATE)
    stop.click(_stop(page), which, told, **PRIVATE).then(watch, which, watched, **PRIVATE)
    resume.click(_resume(page), which, told, **PRIVATE).then(watch, which, watched, **PRIVATE)
    return watch, [which], watched


def _build_data() -> list[Any]:
    """The pictures and the prompts, in the order of `_start`'s first arguments."""
    source = gr.Radio([_BUILT_IN, _UPLOAD, _PATH], value=_BUILT_IN, label="Pictures", elem_id="source")
    files = gr.File(
        label=f"{', '.join(KINDS)} and, for captions, {CAPTIONS_FILE} or .txt",
        file_count="multiple",
        visible=False,
        file_types=[*KINDS, ".jsonl", ".txt"],
        elem_id="upload",
    )
    caption = gr.Textbox(
        label="Caption of pictures without one", info="Left empty: the file's name in words.", visible=False
    )
    path = gr.Textbox(label=f"Folder with {CAPTIONS_FILE} or .txt files", visible=False, elem_id="path")
    prompts = gr.Textbox(
        label="Validation prompts, one a line",
        lines=4,
        value=BUILT_IN.prompts,
        placeholder="Left empty with the embedded model: some of the captions.",
        elem_id="prompts",
    )
    source.change(
        lambda one: (gr.File(visible=one == _UPLOAD), *(gr.Textbox(visible=one == kind) for kind in (_UPLOAD, _PATH))),
        source,
        [files, caption, path],
        **PRIVATE,
    )
    return [source, files, caption, path, prompts]


def _suggest(source: str, model: str, *typed: Any) -> tuple[Any, ...]:
    """Prompts, steps, rate and interval that fit these pictures on the embedded model; what was typed stays."""
    if model.strip() != EMBEDDED:
        return typed
    before, now = (OWN, BUILT_IN) if source == _BUILT_IN else (BUILT_IN, OWN)
    pairs = zip(typed, astuple(before), astuple(now), strict=True)
    return tuple(new if one == old else one for one, old, new in pairs)


def _build_settings() -> list[Any]:
    """Components in the order of `_start`'s last arguments."""
    default = TrainingRequest("first")
    with gr.Column(min_width=300):
        name = gr.Textbox(default.name, label="Name", elem_id="training-name", max_length=48)
        methods = gr.CheckboxGroup(list(METHODS), value=list(default.methods), label="Methods, equal in all else")
        model = gr.Textbox(default.model, label="Base model", info=f"{EMBEDDED}, a name on the Hub, or a folder")
        with gr.Row():
            steps = gr.Number(default.steps, label="Steps", precision=0, min_width=90, elem_id="training-steps")
            batch = gr.Number(default.batch, label="Batch size", precision=0, min_width=90)
            rate = gr.Number(default.learning_rate, label="Learning rate", min_width=90, step=0.0001)
        with gr.Row():
            rank = gr.Number(default.rank, label="Rank", precision=0, min_width=90)
            seed = gr.Number(default.seed, label="Seed", precision=0, min_width=90)
            every = gr.Number(
                default.validation_steps, label="Pictures every", precision=0, min_width=90, elem_id="training-every"
            )
    return [name, methods, model, steps, batch, rate, rank, seed, every]


def _build_live() -> tuple[gr.Image, gr.LinePlot]:
    """The pictures and the losses of what is being trained."""
    sheet = gr.Image(show_label=False, interactive=False, visible=False, elem_id="live", format="png")
    plot = gr.LinePlot(
        x="step",
        y="value",
        color="run",
        title="Training loss, smoothed",
        x_title="step",
        y_title=" ",
        height=260,
        visible=False,
        elem_id="live-loss",
        buttons=[],
    )
    return sheet, plot


def _start(page: Page) -> Any:
    def start(
        source: str,
        files: list[str] | None,
        caption: str,
        path: str,
        prompts: str,
        name: str,
        methods: list[str],
        model: str,
        steps: float | None,
        batch: float | None,
        rate: float | None,
        rank: float | None,
        seed: float | None,
        every: float | None,
    ) -> str:
        try:
            request = TrainingRequest(
                name.strip(),
                tuple(methods),
                prompts=tuple(line.strip() for line in prompts.splitlines() if line.strip()),
                model=_model(page, model.strip()),
                steps=_whole("number of steps", steps),
                batch=_whole("batch size", batch),
                learning_rate=_given("learning rate", rate),
                rank=_whole("rank", rank),
                seed=_whole("seed", seed),
                validation_steps=_whole("distance of validation pictures", every),
                checkpointing_steps=_whole("distance of checkpoints", every),
                pictures=_pictures(page, source, files, caption, path, name.strip()),
            )
            training.start(request, page.trainings)
        except (ValueError, OSError) as error:
            return message(str(error), "bad")
        return message(f"Started {' and '.join(methods)} in {page.trainings / request.name}.", "good")

    return start


def _given(what: str, number: float | None) -> float:
    """The number of a field; `None` where it was deleted."""
    if number is None:
        raise ValueError(f"The {what} is missing. Type a number.")
    return float(number)


def _whole(what: str, number: float | None) -> int:
    return int(_given(what, number))


def _pictures(page: Page, source: str, files: Sequence[str] | None, caption: str, path: str, name: str) -> Path | None:
    if source == _BUILT_IN:
        return None
    if source == _PATH:
        return _allowed(page, path.strip())
    check_name(name)  # before anything is written in a folder of that name
    folder = page.trainings / name / "pictures"
    if folder.exists():
        raise ValueError(f"{folder} holds pictures already. Choose another name.")
    save_uploads([Path(file) for file in files or []], folder, caption)
    return folder


def _model(page: Page, name: str) -> str:
    if name != EMBEDDED and Path(name).expanduser().exists():
        return str(_allowed(page, name))
    return name


def _allowed(page: Page, text: str) -> Path:
    """A folder that this page may train on. From other machines only what was allowed at the start."""
    path = Path(text).expanduser()
    if not text or not path.exists() or not _may_read(page, path):
        raise ValueError(f"There is no folder {text!r} that this page may use.")
    return path.resolve()


def _may_read(page: Page, path: Path) -> bool:
    folders = [*page.allowed, page.trainings, *page.library.folders]
    return page.local or any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _named(page: Page, name: str | None) -> Path:
    """The run folder of a training that the page lists.

    Raises:
        ValueError: there is none of that name.
    """
    if not name:
        raise ValueError("Choose a training.")
    try:
        return inside(page.trainings, name)
    except OSError as error:
        raise ValueError(f"There is no training {name!r}.") from error


def _stop(page: Page) -> Any:
    def stop(name: str | None) -> str:
        try:
            asked = training.stop(_named(page, name))
        except ValueError as error:
            return message(str(error), "bad")
        return message(f"{name} ends after its step, with a checkpoint." if asked else f"{name} is not running.")

    return stop


def _resume(page: Page) -> Any:
    def resume(name: str | None) -> str:
        try:
            training.resume(_named(page, name), lambda path: _may_read(page, path))
        except (ValueError, OSError) as error:
            return message(str(error), "bad")
        return message(f"{name} goes on from its latest checkpoint.", "good")

    return resume


def _watch(page: Page) -> Any:
    def watch(which: str | None) -> tuple[Any, ...]:
        paths = training.trainings(page.trainings)[:12]
        runs = {str(path.relative_to(page.trainings)): read_run(path) for path in paths}
        rows = "".join(_row(name, training.status(run)) for name, run in runs.items())
        kept = which if which in runs else next(iter(runs), None)
        latest = {name: run for name, run in sorted(runs.items()) if kept and name.split("/")[0] == kept.split("/")[0]}
        return rows or message("No training yet."), menu(gr.Dropdown, list(runs), kept, which), *_live(page, latest)

    return watch


def _live(page: Page, runs: dict[str, Run]) -> tuple[Any, Any]:
    """The pictures and the losses of the trainings that belong together."""
    shown = {name.split("/")[-1]: run for name, run in runs.items()}
    prompts = list(dict.fromkeys(prompt for run in shown.values() for prompt in run.prompts()))[:4]
    seed = next((key.seed for run in shown.values() for key in run.pictures), None)
    loss = curves.table(shown, "loss")
    plot = gr.LinePlot(value=loss, color_map=curves.colours(list(shown), None), visible=not loss.empty)
    if seed is None:
        return gr.Image(visible=False), plot
    sheet = page.file(grids.grid(shown, prompts, seed, UNMERGED), "live")
    text = f"Grid so far: {grids.describe(shown, prompts, seed, UNMERGED)}"
    return gr.Image(value=sheet, alt_text=text, visible=True), plot


def _row(name: str, status: training.Status) -> str:
    share = 100 * status.step / status.steps if status.steps else 0
    return (
        f'<div class="training {status.state}"><b>{html.escape(name)}</b> <span class="state">{status.state}</span> '
        f"<span>step {status.step} of {status.steps or '?'}</span>"
        f'<progress max="100" value="{share:.0f}" aria-label="Progress of {html.escape(name, quote=True)}"></progress>'
        f"<small>{html.escape(status.detail)}</small></div>"
    )
