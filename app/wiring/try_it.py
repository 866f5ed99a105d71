"""The tab Try it: the base model, and chosen runs at a chosen step, draw a prompt; in turn, and each can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ..run import Run
from ..wishes import APPROACHES, BEST, Stopped, Wish
from .shared import PRIVATE, Page, say

_BASE = "base"
MOST = 4


def build(page: Page, chosen: gr.CheckboxGroup) -> Any:
    """Lays the tab out; gives the function that fills its menus, its inputs and outputs."""
    with gr.Row(elem_classes="tight"):
        prompt = gr.Textbox(label="Prompt", placeholder="for example: red apple", scale=4, min_width=220,
                            max_length=1000, elem_id="wish")  # fmt: skip
        negative = gr.Textbox(label="Negative prompt", scale=2, min_width=160, max_length=1000)
    with gr.Row(elem_classes="tight"):
        step = gr.Dropdown([], label="Step (with a checkpoint)", min_width=130, elem_id="try-step")
        approach = gr.Dropdown(list(APPROACHES), value=BEST, label="Adapter", min_width=150, elem_id="try-merge")
        seed = gr.Number(42, label="Seed", precision=0, minimum=0, min_width=90)
        steps = gr.Slider(
            1, 50, value=20, step=1, label="Sampler steps", min_width=150, buttons=[], elem_id="try-steps"
        )
        guidance = gr.Slider(1, 15, value=4, step=0.5, label="Guidance", min_width=150, buttons=[])
        strength = gr.Slider(0, 2, value=1, step=0.05, label="Strength of the LoRA", min_width=150, buttons=[])
    with gr.Row(elem_classes="player"):
        go = gr.Button("Draw", variant="primary", elem_id="draw")
        halt = gr.Button("Stop", elem_id="stop-drawing")
    said = gr.HTML(elem_id="try-said")
    with gr.Row(elem_id="tried"):
        images = [
            gr.Image(label=_BASE, interactive=False, min_width=150, visible=place == 0, elem_id=f"tried-{place}",
                     elem_classes="side", format="png", buttons=["fullscreen", "download"])
            for place in range(MOST + 1)
        ]  # fmt: skip
    go.click(
        _draw(page), [chosen, prompt, negative, step, approach, seed, steps, guidance, strength], [said, *images],
        api_visibility="private", concurrency_limit=1, concurrency_id="models", show_progress_on=[said],
    )  # fmt: skip
    halt.click(_stop(page), None, said, queue=False, **PRIVATE)
    return _menus(page), [chosen, step], [step]


def stop_session(page: Page, session: str | None) -> bool:
    """Stops what a session draws; whether it drew."""
    event = page.stops.get(session or "")
    if event is not None:
        event.set()
    return event is not None


def _menus(page: Page) -> Any:
    def menus(names: list[str], step: int | None) -> Any:
        found = sorted({one for run in page.runs(names).values() for one in run.checkpoints})
        return gr.Dropdown(found, value=step if step in found else (found[-1] if found else None))

    return menus


def _stop(page: Page) -> Any:
    def stop(request: gr.Request) -> str:
        return say("Stopping after this step of the sampler ..." if stop_session(page, request.session_hash) else "")

    return stop


def _draw(page: Page) -> Any:
    def draw(
        names: list[str], prompt: str, negative: str, step: int | None, approach: str, seed: float, steps: int,
        guidance: float, strength: float, request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        runs = dict(list(page.runs(names).items())[:MOST])
        session = request.session_hash or ""
        stop = page.stops[session] = threading.Event()
        hidden: list[Any] = [gr.Image(value=None, visible=False) for _ in range(MOST + 1)]
        try:
            if not runs or step is None:
                raise ValueError("Choose a run that has a checkpoint.")
            wish = Wish(prompt, negative, int(seed), int(steps), float(guidance), approach, float(strength))
            yield say("Loading the model ..."), *hidden
            yield from _pictures(page, runs, step, wish, stop, progress)
        except Stopped:
            yield say("Stopped."), *[gr.skip()] * (MOST + 1)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            yield say(str(error), "bad"), *[gr.skip()] * (MOST + 1)
        finally:
            if page.stops.get(session) is stop:
                del page.stops[session]

    return draw


def _pictures(
    page: Page, runs: dict[str, Run], step: int, wish: Wish, stop: threading.Event, progress: gr.Progress
) -> Iterator[tuple[Any, ...]]:
    from ..generate import Request

    studio = page.studio()
    total = len(runs) + 1
    shown: list[Any] = [gr.Image(value=None, visible=False) for _ in range(MOST + 1)]
    for number, (name, run) in enumerate([(_BASE, next(iter(runs.values()))), *runs.items()]):

        def report(what: str, share: float, number: int = number, name: str = name) -> None:
            progress((number + share) / total, desc=f"{name}: {what}")

        request = Request(wish, report, stop)
        if number == 0:
            image, how = studio.base(run, request), "without an adapter"
            title = "base model"
        else:
            image, how = studio.adapted(run, step, request)
            title = f"{name}, step {step}, {how}"
        alt = f'Picture by {title}, for the prompt "{wish.prompt}" with seed {wish.seed}'
        shown[number] = gr.Image(value=page.file(image, "drawn"), label=title, alt_text=alt, visible=True)
        yield say(f"{number + 1} of {total} pictures" if number + 1 < total else "Done.", "good"), *shown
