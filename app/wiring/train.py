"""The tab Train here: both methods on one folder of pictures with equal settings, watched while they go on."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .. import curves, grids, training
from ..files import inside
from ..run import UNMERGED, Run
from ..runs import read_run
from ..uploads import CAPTIONS, KINDS, save_uploads
from .shared import PRIVATE, Page, menu, say

_PROMPTS = ("cat face", "penguin", "birthday cake", "red apple")
_BUILT_IN, _UPLOAD, _PATH = "OpenMoji drawings", "Upload pictures", "Folder on this machine"


def build(page: Page) -> Any:
    """Lays the tab out; gives the function that shows how the trainings are, its inputs and outputs."""
    with gr.Row():
        with gr.Column(min_width=300):
            source = gr.Radio([_BUILT_IN, _UPLOAD, _PATH], value=_BUILT_IN, label="Pictures", elem_id="source")
            files = gr.File(
                label=f"{', '.join(KINDS)} and, for captions, {CAPTIONS} or .txt",
                file_count="multiple",
                visible=False,
                file_types=[*KINDS, ".jsonl", ".txt"],
                elem_id="upload",
            )
            caption = gr.Textbox(
                label="Caption of pictures without one", info="Left empty: the file's name in words.", visible=False
            )
            path = gr.Textbox(label=f"Folder with {CAPTIONS} or .txt files", visible=False, elem_id="path")
            prompts = gr.Textbox(
                label="Validation prompts, one a line", lines=4, value="\n".join(_PROMPTS), elem_id="prompts"
            )
            go = gr.Button("Start", variant="primary", elem_id="start-training")
        settings = _settings()
    said = gr.HTML(elem_id="train-said")
    progress = gr.HTML(elem_id="trainings")
    with gr.Row(elem_classes="tight"):
        which = gr.Dropdown([], label="Training", elem_id="which-training", scale=3, min_width=200)
        halt = gr.Button("Stop it", elem_id="stop-training", min_width=100)
        onward = gr.Button("Go on with it", elem_id="resume-training", min_width=120)
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
    source.change(
        lambda one: (gr.File(visible=one == _UPLOAD), *(gr.Textbox(visible=one == kind) for kind in (_UPLOAD, _PATH))),
        source,
        [files, caption, path],
        **PRIVATE,
    )
    watch, watched = _watch(page), [progress, which, sheet, plot]
    started = go.click(_start(page), [source, files, caption, path, prompts, *settings], said, **PRIVATE)
    started.then(watch, which, watched, **PRIVATE)
    halt.click(_stop(page), which, said, **PRIVATE).then(watch, which, watched, **PRIVATE)
    onward.click(_resume(page), which, said, **PRIVATE).then(watch, which, watched, **PRIVATE)
    return watch, [which], watched


def _settings() -> list[Any]:
    """Components in the order of `_start`'s last arguments."""
    with gr.Column(min_width=300):
        name = gr.Textbox("first", label="Name", elem_id="training-name", max_length=48)
        methods = gr.CheckboxGroup(
            list(training.METHODS), value=["lora", "reslora_is"], label="Methods, equal in all else"
        )
        model = gr.Textbox(training.EMBEDDED, label="Base model", info="embedded, a name on the Hub, or a folder")
        with gr.Row():
            steps = gr.Number(100, label="Steps", precision=0, min_width=90, elem_id="training-steps")
            batch = gr.Number(4, label="Batch size", precision=0, min_width=90)
            rate = gr.Number(0.0005, label="Learning rate", min_width=90, step=0.0001)
        with gr.Row():
            rank = gr.Number(16, label="Rank", precision=0, min_width=90)
            seed = gr.Number(42, label="Seed", precision=0, min_width=90)
            every = gr.Number(10, label="Pictures every", precision=0, min_width=90, elem_id="training-every")
    return [name, methods, model, steps, batch, rate, rank, seed, every]


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
        steps: float,
        batch: float,
        rate: float,
        rank: float,
        seed: float,
        every: float,
    ) -> str:
        try:
            plan = training.Plan(
                name=name.strip(),
                methods=tuple(methods),
                prompts=tuple(line.strip() for line in prompts.splitlines() if line.strip()),
                model=_model(page, model.strip()),
                steps=int(steps),
                batch=int(batch),
                learning_rate=float(rate),
                rank=int(rank),
                seed=int(seed),
                every=int(every),
                checkpoints=int(every),
                pictures=_pictures(page, source, files, caption, path, name.strip()),
            )
            training.start(plan, page.trainings)
        except (ValueError, OSError, TypeError) as error:
            return say(str(error), "bad")
        return say(f"Started {' and '.join(methods)} in {page.trainings / plan.name}.", "good")

    return start


def _pictures(page: Page, source: str, files: Sequence[str] | None, caption: str, path: str, name: str) -> Path | None:
    if source == _BUILT_IN:
        return None
    if source == _PATH:
        return _allowed(page, path.strip())
    training.Plan(name)  # before anything is written in a folder of that name
    folder = page.trainings / name / "pictures"
    if folder.exists():
        raise ValueError(f"{folder} holds pictures already. Choose another name.")
    save_uploads([Path(file) for file in files or []], folder, caption)
    return folder


def _model(page: Page, name: str) -> str:
    if name != training.EMBEDDED and Path(name).expanduser().exists():
        return str(_allowed(page, name))
    return name


def _allowed(page: Page, text: str) -> Path:
    """A folder that this page may train on. From other machines only what was allowed at the start."""
    path = Path(text).expanduser()
    folders = [*page.allowed, page.trainings, *page.library.folders]
    if not text or not path.exists():
        raise ValueError(f"There is no folder {text!r} that this page may use.")
    if not page.local and not any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise ValueError(f"There is no folder {text!r} that this page may use.")
    return path.resolve()


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
            return say(str(error), "bad")
        return say(f"{name} ends after its step, with a checkpoint." if asked else f"{name} is not running.")

    return stop


def _resume(page: Page) -> Any:
    def resume(name: str | None) -> str:
        try:
            training.resume(_named(page, name))
        except (ValueError, OSError) as error:
            return say(str(error), "bad")
        return say(f"{name} goes on from its latest checkpoint.", "good")

    return resume


def _watch(page: Page) -> Any:
    def watch(which: str | None) -> tuple[Any, ...]:
        paths = training.trainings(page.trainings)[:12]
        runs = {str(path.relative_to(page.trainings)): read_run(path) for path in paths}
        rows = "".join(_row(name, training.status(run)) for name, run in runs.items())
        kept = which if which in runs else next(iter(runs), None)
        latest = {name: run for name, run in sorted(runs.items()) if kept and name.split("/")[0] == kept.split("/")[0]}
        return rows or say("No training yet."), menu(gr.Dropdown, list(runs), kept, which), *_live(page, latest)

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
