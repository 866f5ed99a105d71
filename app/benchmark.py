"""How fast the page is on the server's side: python -m app.benchmark

Two runs of 200 steps with 5,000 pictures each are made up in a temporary folder. "open" is what the server computes for
somebody who opens the page: the runs, their warnings, the menus, the addresses of all steps and the first pictures.
"picture" is one picture that has not been shown before: read, checked and handed over; "picture again" is one that
somebody had before. A move of the slider computes nothing on the server.

With --visitors N, a server of its own gets N visitors at the same moment, and how long they wait is printed: until the
first pictures are there, until all that the page asks for at its opening is there, and until the pictures of a new step
are. A visitor asks for all that a browser with an empty cache asks for: the page, Gradio's scripts and styles in waves
over six connections, the first pictures, a stream that stays open; then, every 0.7 seconds, for a step's pictures and
those of the steps beside, with a far step each fifth time. It runs no script and draws nothing, so what a browser's own
processor needs comes on top. All visitors run in one process, which shares this machine's cores with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reslora_sd.runs.names import UNMERGED

from . import grids
from .library import Library
from .synthetic import make_run
from .tabs.shared import Page
from .visitors import Visit, visits

_METHODS = ("lora", "reslora_is")
_STARTED = "The page is at "
_OPENS_WITHIN = 120.0


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
        library = Library([make_run(Path(place, name), name, steps, prompts=prompts, side=side) for name in _METHODS])
        page = Page(library, Path(place, "cache"), Path(place, "here"))

        def show(step: int) -> None:
            manifest = page.visits.manifest(page.visits.select(None))
            for row in manifest["rows"]:
                page.visits.picture(row["key"], *row["files"][step].split("/", 1))

        figures = {"open": seconds(lambda: show(-1)), "open again": seconds(lambda: show(-1))}
        runs = library.get(library.names())
        figures["grid, 2 prompts"] = seconds(lambda: grids.grid(runs, prompts[:2], 42, UNMERGED))
        one, again = ([seconds(functools.partial(show, step)) for step in range(min(steps, moves))] for _ in range(2))
    figures |= {"picture, median": statistics.median(one) / 2, "picture, slowest": max(one) / 2}
    return {**figures, "picture again, median": statistics.median(again) / 2}


@contextmanager
def own_server(steps: int, prompts: int, side: int) -> Iterator[tuple[str, int]]:
    """A server of its own process, over made-up runs: its address, and the process."""
    with tempfile.TemporaryDirectory() as place:
        names = tuple(f"prompt {number}" for number in range(prompts))
        runs = [make_run(Path(place, name), name, steps, prompts=names, side=side) for name in _METHODS]
        log = Path(place, "log")
        command = [sys.executable, "-m", __package__ or "app", *map(str, runs), "--trainings", str(Path(place, "here"))]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with log.open("w") as out:
            server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            yield _address(server, log), server.pid
        finally:
            server.terminate()
            server.wait(timeout=30)


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + _OPENS_WITHIN
    while time.monotonic() < until and server.poll() is None:
        said = log.read_text(encoding="utf-8")
        if _STARTED in said and said.endswith("\n"):
            return said.partition(_STARTED)[2].split()[0]
        time.sleep(0.05)
    raise OSError(f"The page did not open: {log.read_text(encoding='utf-8')[-2000:]}")


def load(
    visitors: int = 50, moves: int = 20, steps: int = 200, prompts: int = 25, side: int = 64, pause: float = 0.7
) -> dict[str, float]:
    """Seconds that so many visitors wait who come at once, and what each asks for."""
    with own_server(steps, prompts, side) as (address, process):
        asyncio.run(visits(address, 1, 0))  # the first visitor since the start waits for what others then have
        before = processor_time(process)
        found = summary(asyncio.run(visits(address, visitors, moves, pause)))
        return found | {"server's processor, each": (processor_time(process) - before) / visitors}


def processor_time(process: int) -> float:
    """Seconds of the processor that a process has had; 0 where the system doesn't say (it is Linux that does)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def summary(found: Sequence[Visit]) -> dict[str, float]:
    """The 95th percentiles, and the means of what a visitor asked for while it opened the page and moved."""
    waits = {
        "first pictures": [one.first for one in found],
        "opening": [one.opened for one in found],
        "moving a step": [move for one in found for move in one.moves],
    }
    figures = {f"{name}, 95 %": percentile(times) for name, times in waits.items() if times}
    figures |= {f"{name}, median": statistics.median(times) for name, times in waits.items() if times}
    figures["requests of opening"] = statistics.mean(one.opening_requests for one in found)
    return figures | {"kilobytes of opening": statistics.mean(one.opening_bytes for one in found) / 1000}


def percentile(times: Sequence[float], share: float = 0.95) -> float:
    """The least of them that so many of all don't exceed."""
    ordered = sorted(times)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture's side (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--processor", action="store_true", help="count the processor's time, not the clock's")
    parser.add_argument(
        "--visitors",
        type=int,
        nargs="?",
        const=50,
        metavar="N",
        help="visitors at once (without N: %(const)s)",
    )
    parser.add_argument("--moves", type=int, default=20, help="moves of each visitor (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.visitors is not None:
        if args.visitors < 1 or args.moves < 0:
            parser.error(f"--visitors is {args.visitors} and --moves {args.moves}. They must be at least 1 and 0.")
        figures = load(args.visitors, args.moves, side=args.side)
        for name, figure in figures.items():
            is_count = name.startswith(("requests", "kilobytes"))
            print(f"{name:24} {figure:8.0f}" if is_count else f"{name:24} {figure:8.3f} s")
    else:
        figures = measure(side=args.side, clock=time.process_time if args.processor else time.perf_counter)
        for name, figure in figures.items():
            print(f"{name:22} {1000 * figure:8.1f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
