"""How fast the page is on the server's side: python -m app.benchmark

Two runs of 200 steps with 5,000 pictures each are made up in a temporary folder. "open" is what the server computes for
somebody who opens the page: the runs, their warnings, the menus and the first pictures. "move" is one move of the
slider to a step that has not been shown before: both pictures, read, checked and handed over. "move again" is one to a
step that somebody had before.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reslora_sd.runs.names import UNMERGED

from . import grids, pictures
from .library import Library
from .synthetic import make_run
from .tabs.shared import Page


def measure(
    steps: int = 200,
    pictures_a_step: int = 25,
    side: int = 64,
    moves: int = 50,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of everything, by name; `clock` can be that of the processor, which other programs don't disturb."""

    def seconds(call: Callable[[], object]) -> float:
        began = clock()
        call()
        return clock() - began

    prompts = tuple(f"prompt {number}" for number in range(pictures_a_step))
    with tempfile.TemporaryDirectory() as place:
        names = ("lora", "reslora_is")
        library = Library([make_run(Path(place, name), name, steps, prompts=prompts, side=side) for name in names])
        page = Page(library, Path(place, "cache"), Path(place, "here"))

        def move(step: int) -> None:
            runs = library.get(library.names())
            for view in pictures.views(runs, prompts[0], 42, UNMERGED, step):
                page.picture_file(view)

        def open_page() -> None:
            runs = library.get(library.names())
            shown = pictures.steps_of(runs, prompts[0], 42, UNMERGED)
            pictures.variants(runs)
            move(shown[-1])

        figures = {"open": seconds(open_page), "open again": seconds(open_page)}
        runs = library.get(library.names())
        figures["grid, 2 prompts"] = seconds(lambda: grids.grid(runs, prompts[:2], 42, UNMERGED))
        one, again = (
            [seconds(functools.partial(move, step)) for step in range(1, min(steps, moves) + 1)] for _ in range(2)
        )
    figures |= {"move, median": statistics.median(one), "move, slowest": max(one)}
    return {**figures, "move again, median": statistics.median(again)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture's side (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--processor", action="store_true", help="count the processor's time, not the clock's")
    args = parser.parse_args(argv)
    figures = measure(side=args.side, clock=time.process_time if args.processor else time.perf_counter)
    for name, figure in figures.items():
        print(f"{name:18} {1000 * figure:8.1f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
