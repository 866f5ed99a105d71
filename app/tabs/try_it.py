"""The tab Try it: the base model, and chosen runs at a chosen step, draw a prompt; in turn, and each can be stopped."""

from __future__ import annotations

import html
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from reslora_sd.runs.names import BASE
from reslora_sd.runs.run import Run

from ..draw_request import ADAPTER_CHOICES, BEST, DrawRequest, Stopped
from ..wording import labelled, variant_name
from .menus import Menu
from .shared import FOLLOW, PRIVATE, Page, menu, message

MOST_RUNS = 5
"""Pictures beside that of the base model."""
_GUIDANCE = (1, 15)
"""Least and most that can be chosen."""


def build(page: Page, chosen: gr.CheckboxGroup) -> Any:
    """Lays the tab out; gives the function that fills its menus, its inputs and outputs."""
    step, settings = _build_settings(page)
    prompts = settings[:2]
    cut = gr.HTML(elem_id="try-cut")
    with gr.Row(elem_classes="player"):
        draw = gr.Button("Draw", variant="primary", elem_id="draw", interactive=False)  # until its menus are there
        stop = gr.Button("Stop", elem_id="stop-drawing")
    told = gr.HTML(elem_id="try-said")
    with gr.Row(elem_id="tried"):
        images = [_build_picture(place) for place in range(MOST_RUNS + 1)]
    ticket = gr.State("")
    drawn = draw.click(take_ticket(page), None, [ticket, told], queue=False, **PRIVATE).then(
        _draw(page),
        [ticket, chosen, step, *settings],
        [told, *images],
        concurrency_limit=1,
        concurrency_id="models",
        trigger_mode="multiple",
        **PRIVATE,
    )
    drawn.then(_unread(page), prompts, cut, **PRIVATE)
    for box in prompts:
        box.submit(None, None, None, js="() => document.getElementById('draw').click()")  # nothing where it waits
        box.blur(_unread(page), prompts, cut, **FOLLOW)
    # Gradio's `cancels` would cut the drawing off from the page, so that its last word may be a half-full bar.
    stop.click(stop_drawing(page), None, told, queue=False, **PRIVATE)
    return _menus(page), [chosen, step], [step, draw]


def stop_session(page: Page, session: str | None) -> bool:
    """Stops what a session draws or waits for; whether there was anything."""
    events = list(page.stop_events.get(session or "", {}).values())
    for event in events:
        event.set()
    return bool(events)


def guidance_of(page: Page) -> float:
    """How the first run drew its own pictures: what suits one model and data makes another's colours too strong."""
    runs = page.drawing(list(page.library.keys())).values()
    found = next((run.arguments.get("validation_guidance_scale") for run in runs), None)
    if isinstance(found, int | float) and _GUIDANCE[0] <= found <= _GUIDANCE[1]:
        return float(found)
    return DrawRequest(prompt="any").guidance


def _build_settings(page: Page) -> tuple[gr.Dropdown, list[Any]]:
    """The step to draw with, and components in the order of `DrawRequest`'s fields."""
    with gr.Row(elem_classes="tight"):
        prompt = gr.Textbox(
            label="Prompt",
            placeholder="for example: red apple",
            scale=4,
            min_width=220,
            max_length=1000,
            elem_id="draw-prompt",
        )
        negative = gr.Textbox(label="Negative prompt", scale=2, min_width=160, max_length=1000)
    default = DrawRequest(prompt="any")
    with gr.Row(elem_classes="tight"):
        step = Menu([], label="Step (with a checkpoint)", min_width=130, elem_id="try-step")
        approach = gr.Dropdown(
            labelled(ADAPTER_CHOICES), value=BEST, label="Adapter", min_width=150, elem_id="try-merge"
        )
        seed = gr.Number(default.seed, label="Seed", precision=0, minimum=0, min_width=90)
        steps = gr.Slider(
            1, 150, value=default.steps, step=1, label="Sampler steps", min_width=150, buttons=[], elem_id="try-steps"
        )
        guidance = gr.Slider(
            *_GUIDANCE, value=guidance_of(page), step=0.25, label="Guidance", min_width=150, buttons=[]
        )
        strength = gr.Slider(
            0, 2, value=default.strength, step=0.05, label="Strength of the LoRA", min_width=150, buttons=[]
        )
    return step, [prompt, negative, seed, steps, guidance, approach, strength]


def _build_picture(place: int) -> gr.Image:
    return gr.Image(
        label=BASE,
        interactive=False,
        min_width=150,
        visible=False,
        elem_id=f"tried-{place}",
        elem_classes="side",
        format="png",
        buttons=["fullscreen", "download"],
    )


def _menus(page: Page) -> Any:
    def menus(names: list[str], step: int | None) -> tuple[Any, Any]:
        found = sorted({one for run in page.drawing(names).values() for one in run.checkpoints})
        new = step if step in found else (found[-1] if found else None)
        return menu(gr.Dropdown, found, new, step), gr.Button(interactive=new is not None)

    return menus


def _unread(page: Page) -> Any:
    def unread(prompt: str, negative: str) -> str:
        """Says what the model that draws here doesn't read; nothing before the first picture."""
        parts = [
            f"The {what} is longer than the model reads. It is cut, and this isn't read: {rest}"
            for what, text in (("prompt", prompt), ("negative prompt", negative))
            if (rest := page.unread(text))
        ]
        return message(" ".join(parts), "bad")

    return unread


def stop_drawing(page: Page) -> Any:
    """Gives the function of a button that stops what its session draws."""

    def stop(request: gr.Request) -> str:
        return message("Stopped." if stop_session(page, request.session_hash) else "Nothing is being drawn.")

    return stop


def take_ticket(page: Page) -> Any:
    """Gives the function that a drawing begins with."""

    def take(request: gr.Request) -> tuple[str, str]:
        """A ticket for a drawing, which takes the place of the session's earlier one; it can be stopped from now on."""
        session, ticket = request.session_hash or "", secrets.token_hex(8)
        stop_session(page, session)
        page.stop_events.setdefault(session, {})[ticket] = threading.Event()
        return ticket, message("Waiting for its turn.")

    return take


def _draw(page: Page) -> Any:
    unchanged = [gr.skip()] * (MOST_RUNS + 1)

    def draw(
        ticket: str,
        names: list[str],
        step: int | None,
        prompt: str,
        negative: str,
        seed: float | None,
        steps: int,
        guidance: float,
        approach: str,
        strength: float,
        session: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        runs = dict(list(page.drawing(names).items())[:MOST_RUNS])
        tickets = page.stop_events.get(session.session_hash or "", {})
        stop = tickets.get(ticket)
        try:
            if stop is None or stop.is_set():
                raise Stopped
            if not runs or step is None:
                raise ValueError("Choose a run that has a checkpoint.")
            if seed is None:
                raise ValueError("The seed is missing. Type a number.")
            request = DrawRequest(prompt, negative, int(seed), int(steps), float(guidance), approach, float(strength))
            yield from _pictures(page, runs, step, request, stop)
        except Stopped:
            replaced = len(tickets) > 1  # then the later drawing has the word
            yield gr.skip() if replaced else message("Stopped."), *unchanged
        except Exception as error:  # whatever run.json makes a library raise is told, and the page goes on
            yield message(str(error) or type(error).__name__, "bad"), *unchanged
        finally:
            if stop is not None:
                stop.set()
            tickets.pop(ticket, None)

    return draw


@dataclass(frozen=True)
class _Progress:
    """What the drawing thread reports."""

    text: str
    share: float
    place: int | None = None
    picture: Any = None
    """The update of the Image at `place`."""


def _pictures(
    page: Page, runs: dict[str, Run], step: int, request: DrawRequest, stop: threading.Event
) -> Iterator[tuple[Any, ...]]:
    """Draws in a thread, so that progress can be shown between the pictures too."""
    reports: queue.SimpleQueue[_Progress | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            _draw_all(page, runs, step, request, stop, reports.put)
            reports.put(None)
        except BaseException as error:  # raised again where it is shown
            reports.put(error)

    threading.Thread(target=work, daemon=True).start()
    shown: list[Any] = [gr.Image(value=None, visible=False) for _ in range(MOST_RUNS + 1)]
    yield bar("loading the model", 0.0), *shown
    while (progress := reports.get()) is not None:
        if isinstance(progress, BaseException):
            raise progress
        if progress.place is not None:
            shown[progress.place] = progress.picture
        # all of them each time: a browser that lags skips some of these
        yield bar(progress.text, progress.share), *shown
    yield message("Done.", "good"), *shown


def _draw_all(
    page: Page,
    runs: dict[str, Run],
    step: int,
    request: DrawRequest,
    stop: threading.Event,
    report: Callable[[_Progress], None],
) -> None:
    from ..generator import DrawJob

    generator, total = page.generator(), len(runs) + 1
    first = next(iter(runs.values()))
    for place, (name, run) in enumerate([(BASE, first), *runs.items()]):

        def report_part(what: str, share: float, place: int = place, name: str = name) -> None:
            report(_Progress(f"{name}: {what}", (place + share) / total))

        job = DrawJob(request, report_part, stop)
        if place == 0:
            image, title = generator.draw_base(run, job), variant_name(BASE)
        else:
            image, how = generator.draw_adapted(run, step, job)
            title = f"{name}, step {step}, {how}"
        alt = f'Picture by {title}, for the prompt "{request.prompt}" with seed {request.seed}'
        picture = gr.Image(value=page.passing_file(image, "drawn"), label=title, alt_text=alt, visible=True)
        report(_Progress(f"{name}: done", (place + 1) / total, place, picture))


def bar(text: str, share: float) -> str:
    """How far a drawing is."""
    label = html.escape(f"{text}, {100 * share:.0f} %", quote=True)
    return (
        f'<p class="say">{label}</p><progress class="bar" max="1" value="{share:.3f}" aria-label="{label}"></progress>'
    )
