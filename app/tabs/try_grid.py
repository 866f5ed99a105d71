"""The grid of Try it: strength, seed, prompt and run on the axes that one chooses, of runs and of LoRA files."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from reslora_sd.runs.run import Run

from .. import try_plan
from ..draw_request import ADAPTER_CHOICES, BEST, DrawRequest, Stopped
from ..lora_folder import find_lora, left_out, lora_files
from ..try_plan import Cell, GridPlan, Pictures
from ..wording import labelled
from .shared import PRIVATE, Page, message
from .try_it import bar, guidance_of, stop_drawing, take_ticket

_FORMS = {"PNG": "png", "GIF": "gif", "WebP": "webp"}


@dataclass
class Drawn:
    """A grid that can be saved."""

    plan: GridPlan
    common: DrawRequest
    pictures: Pictures


def build(page: Page, chosen: gr.CheckboxGroup, step: gr.Dropdown) -> None:
    """Lays the grid out below the tab's single pictures. `step` is theirs."""
    with gr.Accordion("As a grid", open=False, elem_id="try-grid"):
        settings = _build_settings(page)
        with gr.Row(elem_classes="player"):
            draw = gr.Button("Draw the grid", variant="primary", elem_id="draw-grid", min_width=140)
            stop = gr.Button("Stop", elem_id="stop-grid", min_width=90)
        told = gr.HTML(elem_id="grid-said")
        sheet = gr.Image(
            show_label=False,
            interactive=False,
            elem_id="tried-grid",
            format="png",
            buttons=["fullscreen"],
            visible=False,
        )
        drawn, ticket = gr.State(None), gr.State("")
        with gr.Row(elem_classes="player"):
            form = gr.Dropdown(list(_FORMS), value="PNG", label="Save as", elem_id="grid-form", min_width=110, scale=0)
            make = gr.Button("Make the file", elem_id="make-grid", min_width=120, scale=0)
            file = gr.DownloadButton("Download", visible=False, elem_id="get-grid", min_width=120, scale=0)
    draw.click(take_ticket(page), None, [ticket, told], queue=False, **PRIVATE).then(
        _draw(page),
        [ticket, chosen, step, *settings],
        [told, sheet, drawn],
        concurrency_limit=1,
        concurrency_id="models",
        trigger_mode="multiple",
        **PRIVATE,
    )
    stop.click(stop_drawing(page), None, told, queue=False, **PRIVATE)
    make.click(_save(page), [drawn, form], [file, told], **PRIVATE)


def _build_settings(page: Page) -> list[Any]:
    default = DrawRequest(prompt="any")
    with gr.Row(elem_classes="tight"):
        axes = [
            gr.Dropdown(
                list(try_plan.AXES), value=value, label=label, elem_id=f"axis-{label[0].lower()}", min_width=120
            )
            for label, value in (
                ("X, columns", try_plan.STRENGTH),
                ("Y, rows", try_plan.RUN),
                ("Z, bands", try_plan.NOTHING),
            )
        ]
        files = gr.Dropdown(
            lora_files(page.loras),
            multiselect=True,
            label="LoRA files of --loras",
            info=left_out(page.loras) or None,
            visible=page.loras is not None,
            elem_id="lora-files",
            min_width=200,
        )
    with gr.Row(elem_classes="tight"):
        prompts = gr.Textbox(label="Prompts, one a line", lines=2, max_length=4000, scale=3, elem_id="grid-prompts")
        negative = gr.Textbox(label="Negative prompt", max_length=1000, min_width=160, elem_id="grid-negative")
        strengths = gr.Textbox(
            "0.5, 1, 1.5", label="Strengths", max_length=200, min_width=120, elem_id="grid-strengths"
        )
        seeds = gr.Textbox(str(default.seed), label="Seeds", max_length=200, min_width=120, elem_id="grid-seeds")
    with gr.Row(elem_classes="tight"):
        approach = gr.Dropdown(labelled(ADAPTER_CHOICES), value=BEST, label="Adapter", min_width=150)
        steps = gr.Slider(
            1, 150, value=default.steps, step=1, label="Sampler steps", min_width=150, buttons=[], elem_id="grid-steps"
        )
        guidance = gr.Slider(1, 15, value=guidance_of(page), step=0.25, label="Guidance", min_width=150, buttons=[])
    return [*axes, files, prompts, negative, strengths, seeds, approach, steps, guidance]


def _draw(page: Page) -> Any:
    def draw(
        ticket: str,
        names: list[str],
        step: int | None,
        x: str,
        y: str,
        z: str,
        files: list[str] | None,
        prompts: str,
        negative: str,
        strengths: str,
        seeds: str,
        approach: str,
        steps: int,
        guidance: float,
        session: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        tickets = page.stop_events.get(session.session_hash or "", {})
        stop = tickets.get(ticket)
        try:
            if stop is None or stop.is_set():
                raise Stopped
            runs = page.drawing(names)
            plan = _plan((x, y, z), [*runs, *(files or [])], prompts, strengths, seeds, step)
            common = DrawRequest(plan.prompts[0], negative, 0, int(steps), float(guidance), approach)
            job = _Job(page, runs or _first_that_draws(page), plan.step, common, stop)
            yield from _shown(page, plan, job)
        except Stopped:
            replaced = len(tickets) > 1  # then the later drawing has the word
            yield gr.skip() if replaced else message("Stopped."), gr.skip(), gr.skip()
        except Exception as error:  # whatever a file makes a library raise is told, and the page goes on
            yield message(str(error) or type(error).__name__, "bad"), gr.skip(), gr.skip()
        finally:
            if stop is not None:
                stop.set()
            tickets.pop(ticket, None)

    return draw


def _first_that_draws(page: Page) -> dict[str, Run]:
    """Its base model draws where no run is chosen. Text runs have none that does."""
    return dict(list(page.drawing(list(page.library.keys())).items())[:1])


def _plan(
    axes: tuple[str, str, str], runs: list[str], prompts: str, strengths: str, seeds: str, step: int | None
) -> GridPlan:
    return GridPlan(
        *axes,
        try_plan.numbers(strengths, float, "Strengths"),
        tuple(int(one) for one in try_plan.numbers(seeds, int, "Seeds")),
        try_plan.split_lines(prompts),
        tuple(dict.fromkeys(runs)),
        step,
    )


@dataclass(frozen=True)
class _Job:
    """What all pictures of a grid share."""

    page: Page
    runs: dict[str, Run]
    """The first one says which base model draws."""
    step: int | None
    common: DrawRequest
    stop: threading.Event

    def draw(self, cell: Cell, report: Callable[[str, float], None]) -> Image.Image | str:
        """One picture, or why there is none: a LoRA of another model leaves the others their pictures."""
        from ..generator import DrawJob

        generator, first = self.page.generator(), next(iter(self.runs.values()))
        job = DrawJob(cell.request(self.common), report, self.stop)
        try:
            if cell.is_base:
                return generator.draw_base(first, job)
            if cell.run not in self.runs:
                return generator.draw_file(first, find_lora(self.page.loras, cell.run), job)
            run = self.runs[cell.run]
            if self.step is None or self.step not in run.checkpoints:
                have = ", ".join(map(str, run.checkpoints)) or "none"
                return f"no checkpoint of step {self.step}; it has: {have}"
            return generator.draw_adapted(run, self.step, job)[0]
        except (ValueError, FileNotFoundError) as error:
            if cell.is_base:
                raise  # then none can be drawn
            return str(error).replace(f"{self.page.loras}/", "")  # where the folder is concerns no visitor


def _shown(page: Page, plan: GridPlan, job: _Job) -> Iterator[tuple[Any, ...]]:
    """Draws in a thread, so that progress can be shown between the pictures too."""
    if not job.runs:
        raise ValueError("There is no run whose base model could draw.")
    reports: queue.SimpleQueue[tuple[str, float] | BaseException | None] = queue.SimpleQueue()
    pictures: Pictures = {}
    cells = plan.cells

    def work() -> None:
        try:
            for place, cell in enumerate(cells):

                def report(what: str, share: float, place: int = place, cell: Cell = cell) -> None:
                    reports.put((f"{cell.run}: {what}", (place + share) / len(cells)))

                pictures[cell] = job.draw(cell, report)
                reports.put(("", (place + 1) / len(cells)))
            reports.put(None)
        except BaseException as error:  # raised again where it is shown
            reports.put(error)

    threading.Thread(target=work, daemon=True).start()
    yield bar("loading the model", 0.0), gr.Image(value=None, visible=False), None
    while (progress := reports.get()) is not None:
        if isinstance(progress, BaseException):
            raise progress
        text, share = progress
        yield bar(text or "drawing", share), _sheet(page, plan, pictures) if not text else gr.skip(), gr.skip()
    failed = sorted({f"{cell.run}: {one}" for cell, one in pictures.items() if isinstance(one, str)})
    said = message("Done.", "good") + "".join(message(one, "bad") for one in failed)
    yield said, _sheet(page, plan, pictures), Drawn(plan, job.common, dict(pictures))


def _sheet(page: Page, plan: GridPlan, pictures: Pictures) -> gr.Image:
    text = f"Grid of {len(plan.cells)} pictures: {plan.x} in columns, {plan.y} in rows, {plan.z} in bands"
    return gr.Image(value=page.passing_file(try_plan.sheet(plan, dict(pictures)), "grid"), alt_text=text, visible=True)


def _save(page: Page) -> Any:
    def save(drawn: Drawn | None, form: str) -> tuple[Any, Any]:
        if drawn is None or form not in _FORMS:
            return gr.skip(), message("Draw a grid first.", "bad")
        data = try_plan.saved(drawn.plan, drawn.pictures, drawn.common, form)
        file = page.passing.new(f"grid.{_FORMS[form]}")
        file.write_bytes(data)
        label = f"Download ({form}, {len(data) / 1000:.0f} kB)"
        return gr.DownloadButton(label, value=page.passing.keep(file), visible=True), gr.skip()

    return save
