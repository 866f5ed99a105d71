"""The paper's tables and figures by one command: what they need, the trainings, the result beside the paper's.

    python -m reslora_sd.paper plan table1 fig4 --preset small --data_dir data
    python -m reslora_sd.paper run table1 fig4 --preset small --data_dir data --jobs 2
    python -m reslora_sd.paper render table1 fig4 --preset small --data_dir data

`plan` starts nothing. `run` trains what is missing; after a stop the same command goes on. `render` writes ITEM.md,
.csv, .json, .png and .svg from the runs that are there. docs/paper.md describes items and presets.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..runs.sweep import Launching
from .items import all_items, chosen
from .keys import Place
from .planning import make_plan
from .presets import load_preset, preset_names
from .telling import told


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: argparse's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reslora_sd.paper", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("verb", choices=["plan", "run", "render"], help="List, train, or write the result.")
    parser.add_argument("items", nargs="+", metavar="ITEM", help=f"all, or some of {', '.join(all_items())}.")
    parser.add_argument("--preset", default="small", help=f"{', '.join(preset_names())}, or a YAML file (small).")
    parser.add_argument("--output_dir", default="", help="Runs and results (runs/paper-PRESET).")
    parser.add_argument("--data_dir", default=os.environ.get("RESLORA_SHARED_DATA", "data"), help="Local files (data).")
    parser.add_argument("--set", action="append", default=[], metavar="PART.FLAG=VALUE", help="Changes the preset.")
    parser.add_argument("--jobs", type=int, help="Trainings at once (one, or one for each of --gpus).")
    parser.add_argument("--gpus", default="", help="Numbers of GPUs, such as 0,1: each training gets one.")
    parser.add_argument("--launcher", default="", help="What starts a script, such as 'accelerate launch' (python).")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the verb says.

    Raises:
        ValueError: an item, a preset or a value is unknown.
        RuntimeError: trainings failed; the others are done.
    """
    args = parse(argv)
    items, preset = chosen(args.items), load_preset(args.preset, args.set)
    output = Path(args.output_dir or f"runs/paper-{Path(args.preset).stem}")
    place = Place(output, Path(args.data_dir))
    gpus = [one for one in args.gpus.split(",") if one.strip()]
    jobs = args.jobs if args.jobs is not None else max(1, len(gpus))
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}. It must be 1 or more.")
    if args.verb == "plan":
        print(told(make_plan(items, preset, place)))
    elif args.verb == "run":
        from .running import run_items

        launcher = shlex.split(args.launcher) or [sys.executable]
        failures = run_items(items, preset, place, jobs, Launching(launcher, gpus, keep_going=True))
        if failures:
            words = "\n\n".join(f"{one.training.folder}: {one.said}" for one in failures)
            raise RuntimeError(f"{len(failures)} trainings failed; the others are done.\n\n{words}")
        print(f"Done. Now: python -m reslora_sd.paper render {' '.join(args.items)}, with the same flags.")
    else:
        from .rendering import render_items

        print("\n".join(render_items(items, make_plan(items, preset, place), output)))


if __name__ == "__main__":
    from ..training.command import run_command

    run_command(main)
