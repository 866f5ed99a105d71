"""Measures what ResLoRA's paths do beside plain LoRA, and draws the plots of docs/why-it-works.md.

    python -m reslora_sd.why pictures --out runs/why
    python -m reslora_sd.why text --train_file train.jsonl --out runs/why
    python -m reslora_sd.why plot --out runs/why --plots docs

Runs that are in --out already aren't trained again, so that a stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..runs.names import STYLES
from ..training.command import quiet_libraries, run_command
from .problem import Kind, Problem
from .sweep import Plan, sweep

KINDS = ("lora", "reslora_is", "reslora_frozen")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reslora_sd.why",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("verb", choices=("pictures", "text", "plot"), help="What is trained; or: draw what is there.")
    add("--out", type=Path, default=Path("runs/why"), help="Folder of the results.")
    add("--plots", type=Path, default=Path("runs/why"), help="plot: where pictures and tables go.")
    add("--kinds", nargs="+", default=list(KINDS), help="Methods; METHOD:none for first_block none.")
    add("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3], help="Learning rates.")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Of the first A and of all draws.")
    add("--steps", type=int, default=100, help="Of every training.")
    add("--held_every", type=int, default=20, help="Steps between two held-out losses.")
    add("--style", default=STYLES[0], choices=STYLES, help="pictures: the embedded style.")
    add("--model", default="smollm2", help="text: smollm2, a folder or a Hub name.")
    add("--task", default="svamp", help="text: a generation task.")
    add("--train_file", help="text: JSON lines with the task's columns (left out: the Hub).")
    add("--batch_size", type=int, default=8, help="text: rows of a step.")
    add("--kept", type=int, default=64, help="text: rows of the held-out loss.")
    add("--measured", type=int, default=256, help="text: rows that the paths are measured on.")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one verb."""
    args = _parser().parse_args(argv)
    if args.verb == "plot":
        from .plots import render

        print(render(args.out, args.plots))
        return
    problem: Problem
    if args.verb == "pictures":
        from .pictures import Pictures

        problem = Pictures(args.style)
    else:
        from .text import Text

        problem = Text(args.model, args.task, args.train_file, args.batch_size, args.kept, args.measured)
    kinds = [Kind.named(name) for name in args.kinds]
    plan = Plan(kinds, args.rates, args.seeds, args.steps, args.held_every)
    print(f"Results are in {sweep(problem, plan, args.out, print)}")


def cli() -> None:
    """The command line."""
    quiet_libraries("transformers")
    run_command(main)


if __name__ == "__main__":
    cli()
