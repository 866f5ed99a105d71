"""The tab Blind test: two runs, or all pairs of several, in hidden order, picked by button or key."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from .. import blind, pictures
from ..blind import LEFT, NEITHER, RIGHT, BlindTest
from ..pictures import PictureView
from ..wording import labelled
from .menus import Menu
from .shared import FOLLOW, PRIVATE, Page, menu, message

HEAD = """
<script>
// The blind test's keys, wherever arrows have no other meaning.
document.addEventListener("keydown", (event) => {
  const pick = { ArrowLeft: "pick-left", ArrowRight: "pick-right", ArrowDown: "pick-neither" }[event.key];
  const own = "input, textarea, select, [role=tab], [role=listbox], [role=option], [role=slider], [contenteditable]";
  if (!pick || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(own)) return;
  const button = document.getElementById(pick);
  if (button && button.offsetParent && !button.disabled) { button.click(); event.preventDefault(); }
});
</script>
"""
_WITH_PAIR = "(test) => [test, document.querySelector('#blind-asked [data-pair]')?.dataset.pair ?? '']"
"""The number of the pair that the browser shows: a second press, sent before the next pair came, is not of that one."""


_TWO, _ALL_PAIRS = "A and B", "all ticked runs, in pairs"


def build(page: Page, chosen: gr.CheckboxGroup, pair: tuple[gr.Dropdown, gr.Dropdown]) -> Any:
    """Lays the tab out; gives the function that fills its menu, its inputs and outputs."""
    gr.HTML(
        message(
            "Pictures of two runs at the same prompt, seed and step, side by side and in hidden order. Pick the better "
            "one, by button or with the keys \N{LEFTWARDS ARROW}, \N{RIGHTWARDS ARROW} and \N{DOWNWARDS ARROW}. Which "
            "is which is told at the end."
        )
    )
    with gr.Row(elem_classes="tight"):
        which = gr.Radio([_TWO, _ALL_PAIRS], value=_TWO, label="Between", elem_id="blind-which")
        variant = Menu([], label="Pictures", min_width=160, elem_id="blind-variant")
        steps = gr.Radio(list(blind.WHICH_STEPS), value=blind.WHICH_STEPS[0], label="Of", elem_id="blind-steps")
        seed = gr.Number(1, label="Seed of the order", precision=0, minimum=0, min_width=110, elem_id="blind-seed")
        start = gr.Button("Start", variant="primary", elem_id="start-blind", min_width=120)
    test, pair_shown = gr.State(None), gr.Textbox(visible=False)
    asked = gr.HTML(elem_id="blind-asked")
    with gr.Row(elem_id="blind"):
        left, right = (_build_side(side) for side in ("left", "right"))
    with gr.Row(elem_classes="player"):
        picks = {
            LEFT: gr.Button("\N{LEFTWARDS ARROW} Left", elem_id="pick-left", interactive=False, min_width=90),
            NEITHER: gr.Button(
                "\N{DOWNWARDS ARROW} Can't tell", elem_id="pick-neither", interactive=False, min_width=90
            ),
            RIGHT: gr.Button("Right \N{RIGHTWARDS ARROW}", elem_id="pick-right", interactive=False, min_width=90),
        }
    score = gr.HTML(elem_id="blind-score")
    reveal = gr.Button("End the test, and say which is which", elem_id="reveal", interactive=False)
    told = gr.Textbox(
        label="Result, to copy", visible=False, lines=4, max_lines=10, buttons=["copy"], elem_id="blind-result"
    )
    shown = [test, asked, left, right, *picks.values(), score, reveal, told]
    start.click(_start(page), [chosen, *pair, which, variant, steps, seed], shown, **PRIVATE)
    for pick, button in picks.items():
        button.click(_pick(page, pick), [test, pair_shown], shown, js=_WITH_PAIR, **PRIVATE)
    reveal.click(_reveal(), test, shown, **PRIVATE)
    which.input(_menus(page), [chosen, *pair, which, variant], [variant], **FOLLOW)
    return _menus(page), [chosen, *pair, which, variant], [variant]


def _build_side(side: str) -> gr.Image:
    return gr.Image(
        label=side.capitalize(),
        interactive=False,
        visible=False,
        min_width=140,
        buttons=["fullscreen"],
        elem_id=f"blind-{side}",
        elem_classes="side",
        format="png",
    )


def _between(chosen: list[str], a: str | None, b: str | None, which: str) -> list[str]:
    """The keys of the runs that are set against each other."""
    return list(chosen) if which == _ALL_PAIRS else [key for key in (a, b) if key is not None]


def _menus(page: Page) -> Any:
    def menus(chosen: list[str], a: str | None, b: str | None, which: str, variant: str | None) -> Any:
        known = pictures.variants(page.runs(_between(chosen, a, b, which)))
        return menu(gr.Dropdown, labelled(known), variant if variant in known else known[0], variant)

    return menus


def _start(page: Page) -> Any:
    def start(
        chosen: list[str],
        a: str | None,
        b: str | None,
        which: str,
        variant: str | None,
        steps: str,
        seed: float | None,
    ) -> tuple[Any, ...]:
        try:
            if seed is None or not 0 <= seed < 2**53:
                raise ValueError("The seed is missing or no seed. Type a whole number.")
            runs = page.runs(_between(chosen, a, b, which))
            if which == _ALL_PAIRS:  # a text run beside them has no pictures
                runs = {name: run for name, run in runs.items() if run.pictures}
            test = blind.make_test(runs, list(runs), int(seed), variant, steps)
        except ValueError as error:
            return None, message(str(error), "bad"), *_nothing()
        return _show(page, test)

    return start


def _pick(page: Page, pick: str) -> Any:
    def picked(test: BlindTest | None, shown: str | None) -> tuple[Any, ...]:
        if test is None or test.trial is None or shown != str(len(test.picks)):
            return tuple(gr.skip() for _ in range(10))
        test.pick(pick)
        return _show(page, test)

    return picked


def _show(page: Page, test: BlindTest) -> tuple[Any, ...]:
    """The pair to look at, or the end."""
    found, done, total = test.pictures(), len(test.picks), len(test.trials)
    if found is None:
        return _end(test)
    prompt = html.escape(test.trials[done].first.prompt)
    left_out = f" {test.alike} pairs whose pictures are the same are left out." if test.alike and not done else ""
    asked = (
        f'<p class="say" data-pair="{done}">Pair {done + 1} of {total}: which is better for '
        f"\N{LEFT DOUBLE QUOTATION MARK}<b>{prompt}</b>\N{RIGHT DOUBLE QUOTATION MARK}?{left_out}</p>"
    )
    return (
        test,
        asked,
        *(_side(page, one) for one in found),
        *[gr.Button(interactive=True)] * 3,
        # how often one of the two was picked would unblind: after "1 of 1" the next pick says which is which
        message(f"{done} of {total} pairs are done. {test.skipped()}"),
        gr.Button(interactive=True),
        gr.Textbox(visible=False),
    )


def _side(page: Page, one: PictureView) -> gr.Image:
    """Under an address that says nothing, not even that it is a picture of another tab."""
    assert one.image is not None
    file = page.passing.new("picture.png")
    one.image.save(file, compress_level=1)
    return gr.Image(value=page.passing.keep(file), label=one.title, alt_text=one.alt, visible=True)


def _reveal() -> Any:
    def reveal(test: BlindTest | None) -> tuple[Any, ...]:
        return tuple(gr.skip() for _ in range(10)) if test is None else _end(test)

    return reveal


def _end(test: BlindTest) -> tuple[Any, ...]:
    said = message(f"The test has ended after {len(test.picks)} of {len(test.trials)} pairs. {test.skipped()}", "good")
    score = "".join(map(message, test.told().splitlines()))
    return (
        None,
        said,
        *_nothing()[:5],
        score,
        gr.Button(interactive=False),
        gr.Textbox(value=blind.summary(test), visible=True),
    )


def _nothing() -> tuple[Any, ...]:
    """All but the test and what is asked: no pictures, and no picks."""
    return (
        *[gr.Image(value=None, visible=False)] * 2,
        *[gr.Button(interactive=False)] * 3,
        "",
        gr.Button(interactive=False),
        gr.Textbox(visible=False),
    )
