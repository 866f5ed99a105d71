"""Compares methods on a text task, each at its own best learning rate, over several seeds.

    python train_scripts/compare_text_methods.py --task svamp --train_file train.jsonl --test_file test.jsonl

First every method is trained at every rate with the first seed; the loss of training rows that are kept apart
(--validation_samples) chooses its rate. At that rate it is then trained with all seeds, and evaluated on the test
rows. compare.json, compare.md (a table) and compare.png (the sweep) are written. Flags that this script doesn't know
go to the training script. Runs that are done are not run again: after a stop, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslora_sd.runs.atomic import write_json
from reslora_sd.runs.names import BASELINES, METHODS
from reslora_sd.runs.sweep import Training, claim_folder, run_all
from reslora_sd.text.compare import best_rates, plot, summary
from reslora_sd.text.tasks import GENERATION_TASKS

FOLDER = Path(__file__).parent
RESULTS = "results.json"


def training(
    args: argparse.Namespace, method: str, rate: float, seed: int, evaluate: str, more: Sequence[str]
) -> Training:
    """One run; one that was trained already goes on at its end, so that only the evaluation is missing."""
    folder = Path(args.output_dir) / f"{method}-lr{rate:g}-seed{seed}"
    script = FOLDER / ("train_nlg_reslora.py" if args.task in GENERATION_TASKS else "train_nlu_reslora.py")
    flags = [
        "--task",
        args.task,
        "--method",
        method,
        "--learning_rate",
        str(rate),
        "--seed",
        str(seed),
        "--max_steps",
        str(args.max_steps),
        "--validation_samples",
        str(args.validation_samples),
        "--evaluate",
        evaluate,
    ]
    if (folder / RESULTS).exists():
        flags += ["--resume_from_checkpoint", "latest"]
    else:
        flags += ["--overwrite_output_dir"]
    return Training(folder, script, [*flags, *more], lambda folder: is_done(folder, evaluate == "all"))


def is_done(folder: Path, evaluated: bool) -> bool:
    """Whether the run is there, with the test rows if these are asked for."""
    path = folder / RESULTS
    return path.exists() and (not evaluated or bool(json.loads(path.read_text(encoding="utf-8"))["results"]))


def results_of(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """What the runs' results.json say."""
    return [json.loads((one.folder / RESULTS).read_text(encoding="utf-8")) for one in trainings]


def make_parser() -> argparse.ArgumentParser:
    """The flags that are not the training script's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--task", default="svamp")
    parser.add_argument("--output_dir", help="runs/compare-TASK where left out")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *BASELINES], default=list(METHODS))
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[1e-3, 2e-3, 5e-3, 1e-2])
    parser.add_argument(
        "--rates_for",
        nargs="+",
        action="append",
        default=[],
        metavar=("METHOD", "RATE"),
        help="a method's own rates instead, as in: --rates_for adalora 2e-3 5e-3",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--max_steps", type=int, default=100)
    parser.add_argument("--validation_samples", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once; mind OMP_NUM_THREADS")
    return parser


def rates_of(args: argparse.Namespace) -> dict[str, list[float]]:
    """Each method's rates.

    Raises:
        ValueError: --rates_for doesn't start with one of the methods, or goes on without numbers.
    """
    rates = dict.fromkeys(args.methods, args.learning_rates)
    for method, *own in args.rates_for:
        try:
            numbers = [float(rate) for rate in own]
        except ValueError:
            numbers = []
        if method not in rates or not numbers:
            wanted = f"one of {', '.join(rates)}, and then numbers"
            raise ValueError(f"--rates_for {' '.join([method, *own])}: give {wanted}.")
        rates[method] = numbers
    return rates


def main(argv: Sequence[str] | None = None) -> None:
    """The sweep over rates, the runs at the best ones, and what they say."""
    args, more = make_parser().parse_known_args(argv)
    first, tried = args.seeds[0], rates_of(args)
    args.output_dir = args.output_dir or f"runs/compare-{args.task}"
    common = {key: getattr(args, key) for key in ("task", "max_steps", "validation_samples")}
    claim_folder(Path(args.output_dir), {**common, "flags": more}, RESULTS)
    sweep = [
        training(args, method, rate, first, "none", more)
        for rate in sorted({rate for rates in tried.values() for rate in rates})
        for method in args.methods
        if rate in tried[method]
    ]
    run_all(sweep, args.jobs)
    swept = sorted(results_of(sweep), key=lambda one: args.methods.index(one["method"]))  # colours of the plot
    rates = best_rates(swept)
    finals = [
        training(args, method, rates[method], seed, "all", more) for seed in args.seeds for method in args.methods
    ]
    run_all(finals, args.jobs)
    final = results_of(finals)
    write_json(Path(args.output_dir) / "compare.json", {"task": args.task, "sweep": swept, "best": final})
    text = summary(swept, final)
    (Path(args.output_dir) / "compare.md").write_text(text + "\n", encoding="utf-8")
    plot(swept, final, Path(args.output_dir) / "compare.png", args.task)
    print(text)


def cli() -> None:
    """The command reslora-compare-text."""
    try:
        main()
    except (RuntimeError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    cli()
