"""The tab Train here: both methods on one folder of pictures with equal settings, watched while they go on."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from reslora_sd.runs.names import UNMERGED
from reslora_sd.runs.paths import inside
from reslora_sd.runs.reader import read_run
from reslora_sd.runs.run import Run

from .. import curves, grids, training
from ..training_request import EMBEDDED, EXTRAS, TrainingRequest, check_name
from ..uploads import save_uploads
from ..wording import method_name
from . import train_form
from .menus import Menu
from .shared import FOLLOW, PRIVATE, Page, menu, message

_MOST_SHOWN = 12


def build(page: Page) -> Any:
    """Lays the tab out; gives the function that shows how the trainings are, its inputs and outputs."""
    form, start = train_form.build()
    told = gr.HTML(elem_id="train-said")
    progress = gr.HTML(elem_id="trainings")
    with gr.Row(elem_classes="tight"):
        which = Menu([], label="Training", elem_id="which-training", scale=3, min_width=200)
        stop = gr.Button("Stop it", elem_id="stop-training", min_width=100)
        resume = gr.Button("Go on with it", elem_id="resume-training", min_width=120)
    watch, watched = _watch(page), [progress, which, *_build_live()]
    started = start.click(_start(page, form), form.inputs(), [told, which], js=form.with_captions(), **PRIVATE)
    started.then(watch, which, watched, **PRIVATE)
    stop.click(_stop(page), which, told, **PRIVATE).then(watch, which, watched, **PRIVATE)
    resume.click(_resume(page), which, told, **PRIVATE).then(watch, which, watched, **PRIVATE)
    which.input(watch, which, watched, **FOLLOW)
    return watch, [which], watched


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


def _start(page: Page, form: train_form.Form) -> Any:
    def start(*values: Any) -> tuple[Any, Any]:
        asked = form.read(values)
        try:
            request = _request(page, asked)
            said = f"Started {' and '.join(map(method_name, request.methods))} in {page.trainings / request.name}."
            try:
                training.start(request, page.trainings, lambda folder: _save(asked, folder))
            except training.Started:
                said = f"{request.name} was started with these settings already. For another, change its name."
        except (ValueError, OSError) as error:
            return message(str(error), "bad"), gr.skip()
        shown = f"{request.name}/{request.methods[0]}"
        return message(said, "good"), gr.Dropdown(choices=list(dict.fromkeys([shown, *_names(page)])), value=shown)

    return start


def _save(asked: dict[str, Any], folder: Path) -> None:
    save_uploads(asked["picked"], folder, asked["caption"], train_form.read_typed(asked["typed"]))


def _request(page: Page, asked: dict[str, Any]) -> TrainingRequest:
    name, source, prompts = asked["name"].strip(), asked["source"], asked["prompts"]
    pictures = None
    if source == train_form.UPLOAD:
        check_name(name)
        pictures = page.trainings.resolve() / name / training.PICTURES
        if prompts == asked["taken"]:  # captions were edited since
            typed = train_form.read_typed(asked["typed"])
            prompts = train_form.prompts_of(asked["picked"], asked["caption"], typed)
    elif source == train_form.FOLDER:
        pictures = _allowed(page, asked["path"].strip())
    fractions = {"lora_alpha", "snr_gamma", "validation_guidance_scale"}
    extras: dict[str, Any] = {
        flag: _typed(what, asked[flag]) if flag in fractions else _whole(what, _typed(what, asked[flag]))
        for flag, (what, _, _) in EXTRAS.items()
        if asked[flag].strip()
    }
    return TrainingRequest(
        name,
        tuple(asked["methods"]),
        prompts=tuple(line.strip() for line in prompts.splitlines() if line.strip()),
        model=_model(page, asked["model"].strip()),
        steps=_whole("number of steps", asked["steps"]),
        batch=_whole("batch size", asked["batch"]),
        learning_rate=_given("learning rate", asked["rate"]),
        rank=_whole("rank", asked["rank"]),
        seed=_whole("seed", asked["seed"]),
        validation_steps=_whole("distance of validation pictures", asked["every"]),
        checkpointing_steps=_whole("distance of checkpoints", asked["every"]),
        pictures=pictures,
        lr_scheduler=None if asked["schedule"] in (None, train_form.OWN_SCHEDULE) else asked["schedule"],
        **extras,
    )


def _given(what: str, number: float | None) -> float:
    """The number of a field; `None` where it was deleted."""
    if number is None:
        raise ValueError(f"The {what} is missing. Type a number.")
    return float(number)


def _typed(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"The {what} is {text!r:.40}. Type a number, or leave it empty.") from None


def _whole(what: str, number: float | None) -> int:
    given = _given(what, number)
    if not given.is_integer():
        raise ValueError(f"The {what} is {given}. Type a whole number.")
    return int(given)


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
            path = _named(page, name)
            state = training.status(read_run(path))
            asked = training.stop(path)
        except ValueError as error:
            return message(str(error), "bad")
        if state.state == "finishing":
            return message(f"{name} has done its steps, and finishes by itself ({state.detail}).")
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


def _names(page: Page) -> list[str]:
    """The latest trainings."""
    paths = training.trainings(page.trainings)[:_MOST_SHOWN]
    return [str(path.relative_to(page.trainings)) for path in paths]


def _watch(page: Page) -> Any:
    def watch(which: str | None) -> tuple[Any, ...]:
        runs = {name: read_run(page.trainings / name) for name in _names(page)}
        rows = "".join(_row(name, training.status(run)) for name, run in runs.items())
        kept = which if which in runs else next(iter(runs), None)
        latest = {name: run for name, run in sorted(runs.items()) if kept and name.split("/")[0] == kept.split("/")[0]}
        return rows or message("No training yet."), menu(gr.Dropdown, list(runs), kept, which), *_live(page, latest)

    return watch


def _live(page: Page, runs: dict[str, Run]) -> tuple[Any, Any]:
    """The pictures and the losses of the trainings that belong together."""
    shown = {method_name(name.split("/")[-1]): run for name, run in runs.items()}
    prompts = list(dict.fromkeys(prompt for run in shown.values() for prompt in run.prompts()))[:4]
    seed = next((key.seed for run in shown.values() for key in run.pictures), None)
    loss = curves.table(shown, "loss")
    colour = curves.colours(list(shown))
    plot = gr.LinePlot(value=loss, color_map=colour, y_lim=curves.axis(loss), visible=not loss.empty)
    if seed is None:
        return gr.Image(visible=False), plot
    sheet = page.passing_file(grids.grid(shown, prompts, seed, UNMERGED), "live")
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
