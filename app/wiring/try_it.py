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

from ..run import Run
from ..wishes import APPROACHES, BEST, Stopped, Wish
from .shared import PRIVATE, Page, menu, say

_BASE = "base"
MOST = 4


def build(page: Page, chosen: gr.CheckboxGroup) -> Any:
    """Lays the tab out; gives the function that fills its menus, its inputs and outputs."""
    with gr.Row(elem_classes="tight"):
        prompt = gr.Textbox(
            label="Prompt",
            placeholder="for example: red apple",
            scale=4,
            min_width=220,
            max_length=1000,
            elem_id="wish",
        )
        negative = gr.Textbox(label="Negative prompt", scale=2, min_width=160, max_length=1000)
    with gr.Row(elem_classes="tight"):
        step = gr.Dropdown([], label="Step (with a checkpoint)", min_width=130, elem_id="try-step")
        approach = gr.Dropdown(list(APPROACHES), value=BEST, label="Adapter", min_width=150, elem_id="try-merge")
        seed = gr.Number(42, label="Seed", precision=0, minimum=0, min_width=90)
        steps = gr.Slider(
            1, 150, value=20, step=1, label="Sampler steps", min_width=150, buttons=[], elem_id="try-steps"
        )
        guidance = gr.Slider(1, 15, value=4, step=0.5, label="Guidance", min_width=150, buttons=[])
        strength = gr.Slider(0, 2, value=1, step=0.05, label="Strength of the LoRA", min_width=150, buttons=[])
    with gr.Row(elem_classes="player"):
        go = gr.Button("Draw", variant="primary", elem_id="draw")
        halt = gr.Button("Stop", elem_id="stop-drawing")
    said = gr.HTML(elem_id="try-said")
    with gr.Row(elem_id="tried"):
        images = [
            gr.Image(
                label=_BASE,
                interactive=False,
                min_width=150,
                visible=False,
                elem_id=f"tried-{place}",
                elem_classes="side",
                format="png",
                buttons=["fullscreen", "download"],
            )
            for place in range(MOST + 1)
        ]
    ticket = gr.State("")
    go.click(_ask(page), None, [ticket, said], queue=False, **PRIVATE).then(
        _draw(page),
        [ticket, chosen, prompt, negative, step, approach, seed, steps, guidance, strength],
        [said, *images],
        concurrency_limit=1,
        concurrency_id="models",
        trigger_mode="multiple",
        **PRIVATE,
    )
    # Gradio's `cancels` would cut the drawing off from the page, so that its last word may be a half-full bar.
    halt.click(_stop(page), None, said, queue=False, **PRIVATE)
    return _menus(page), [chosen, step], [step]


def stop_session(page: Page, session: str | None) -> bool:
    """Stops what a session draws or waits for; whether there was anything."""
    events = list(page.stops.get(session or "", {}).values())
    for event in events:
        event.set()
    return bool(events)


def _menus(page: Page) -> Any:
    def menus(names: list[str], step: int | None) -> Any:
        found = sorted({one for run in page.runs(names).values() for one in run.checkpoints})
        return menu(gr.Dropdown, found, step if step in found else (found[-1] if found else None), step)

    return menus


def _stop(page: Page) -> Any:
    def stop(request: gr.Request) -> str:
        return say("Stopped." if stop_session(page, request.session_hash) else "Nothing is being drawn.")

    return stop


def _ask(page: Page) -> Any:
    def ask(request: gr.Request) -> tuple[str, str]:
        """A ticket for a drawing, which takes the place of the session's earlier one; it can be stopped from now on."""
        session, ticket = request.session_hash or "", secrets.token_hex(8)
        stop_session(page, session)
        page.stops.setdefault(session, {})[ticket] = threading.Event()
        return ticket, say("Waiting for its turn.")

    return ask


def _draw(page: Page) -> Any:
    def draw(
        ticket: str,
        names: list[str],
        prompt: str,
        negative: str,
        step: int | None,
        approach: str,
        seed: float,
        steps: int,
        guidance: float,
        strength: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        runs = dict(list(page.runs(names).items())[:MOST])
        tickets = page.stops.get(request.session_hash or "", {})
        stop = tickets.get(ticket)
        try:
            if stop is None or stop.is_set():
                raise Stopped
            if not runs or step is None:
                raise ValueError("Choose a run that has a checkpoint.")
            wish = Wish(prompt, negative, int(seed), int(steps), float(guidance), approach, float(strength))
            yield from _pictures(page, runs, step, wish, stop)
        except Stopped:
            replaced = len(tickets) > 1  # then the later drawing has the word
            yield gr.skip() if replaced else say("Stopped."), *[gr.skip()] * (MOST + 1)
        except Exception as error:  # whatever run.json makes a library raise is told, and the page goes on
            yield say(str(error) or type(error).__name__, "bad"), *[gr.skip()] * (MOST + 1)
        finally:
            if stop is not None:
                stop.set()
            tickets.pop(ticket, None)

    return draw


@dataclass
class _News:
    """What the drawing thread tells."""

    text: str
    share: float
    place: int | None = None
    picture: Any = None
    """The update of the Image at `place`."""


def _pictures(
    page: Page, runs: dict[str, Run], step: int, wish: Wish, stop: threading.Event
) -> Iterator[tuple[Any, ...]]:
    """Draws in a thread, so that progress can be shown between the pictures too."""
    news: queue.SimpleQueue[_News | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            _draw_all(page, runs, step, wish, stop, news.put)
            news.put(None)
        except BaseException as error:  # raised again where it is shown
            news.put(error)

    threading.Thread(target=work, daemon=True).start()
    shown: list[Any] = [gr.Image(value=None, visible=False) for _ in range(MOST + 1)]
    yield _bar("loading the model", 0.0), *shown
    while (one := news.get()) is not None:
        if isinstance(one, BaseException):
            raise one
        if one.place is not None:
            shown[one.place] = one.picture
        yield _bar(one.text, one.share), *shown  # all of them each time: a browser that lags skips some of these
    yield say("Done.", "good"), *shown


def _draw_all(
    page: Page, runs: dict[str, Run], step: int, wish: Wish, stop: threading.Event, tell: Callable[[_News], None]
) -> None:
    from ..generate import Request

    studio, total = page.studio(), len(runs) + 1
    first = next(iter(runs.values()))
    for place, (name, run) in enumerate([(_BASE, first), *runs.items()]):

        def report(what: str, share: float, place: int = place, name: str = name) -> None:
            tell(_News(f"{name}: {what}", (place + share) / total))

        request = Request(wish, report, stop)
        if place == 0:
            image, title = studio.base(run, request), "base model"
        else:
            image, how = studio.adapted(run, step, request)
            title = f"{name}, step {step}, {how}"
        alt = f'Picture by {title}, for the prompt "{wish.prompt}" with seed {wish.seed}'
        picture = gr.Image(value=page.file(image, "drawn"), label=title, alt_text=alt, visible=True)
        tell(_News(f"{name}: done", (place + 1) / total, place, picture))


def _bar(text: str, share: float) -> str:
    said = html.escape(f"{text}, {100 * share:.0f} %", quote=True)
    return f'<p class="say">{said}</p><progress class="bar" max="1" value="{share:.3f}" aria-label="{said}"></progress>'
