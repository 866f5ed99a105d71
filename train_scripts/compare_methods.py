"""Trains each method at several learning rates and seeds, and compares them, each at its own best rate.

    python train_scripts/compare_methods.py --output_dir runs/compare

runs train_text_to_image_reslora.py for every combination on the same data, noise and held-out pictures, and prints the
loss on the held-out pictures: of the unmerged model and of the exported LoRA. Flags that it doesn't know go to the
training script. A run that is done is not run again, so that a sweep that was stopped continues with the same command.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from reslora_sd.runs.atomic import write_json
from reslora_sd.runs.names import METHODS
from reslora_sd.runs.sweep import Training, claim_folder, run_all

SCRIPT = Path(__file__).with_name("train_text_to_image_reslora.py")
REPORT = "merge_report.json"


def run_folder(args: argparse.Namespace, method: str, rate: float, seed: int) -> Path:
    """Where one combination's run is."""
    return Path(args.output_dir) / f"{method}-lr{rate:g}-seed{seed}"


def training(args: argparse.Namespace, method: str, rate: float, seed: int, more: Sequence[str]) -> Training:
    """One combination's run."""
    flags = [
        "--method",
        method,
        "--learning_rate",
        str(rate),
        "--seed",
        str(seed),
        "--max_train_steps",
        str(args.max_train_steps),
        "--validation_steps",
        str(args.max_train_steps),
        "--overwrite_output_dir",
        *more,
    ]
    return Training(run_folder(args, method, rate, seed), SCRIPT, flags, lambda path: (path / REPORT).exists())


def read(folder: Path) -> dict[str, float]:
    """Held-out losses of one run, by model: base, unmerged, exported; and its drift."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    loss, approach = report["end_to_end"]["loss"], report["approach"]
    drift = report["end_to_end"]["drift"][approach]
    return {"base": loss["base"], "unmerged": loss["unmerged"], "exported": loss[approach], "drift": drift}


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Held-out loss by method and learning rate (mean over seeds), and each method at its best rate."""
    rates = list(next(iter(results.values())))
    head = "".join(f"{'lr ' + rate:>11}" for rate in rates)
    rows = [f"{'method':12}{head}   best: unmerged   exported     drift"]
    for method, by_rate in results.items():
        means = {rate: statistics.mean(run["unmerged"] for run in runs) for rate, runs in by_rate.items()}
        runs = by_rate[min(means, key=lambda rate: means[rate])]
        spread = statistics.stdev(run["unmerged"] for run in runs) if len(runs) > 1 else 0.0
        exported, drift = (statistics.mean(run[key] for run in runs) for key in ("exported", "drift"))
        cells = "".join(f"{means[rate]:11.4f}" for rate in rates)
        rows.append(
            f"{method:12}{cells}   {min(means.values()):.4f} +-{spread:.4f} {exported:9.4f} {100 * drift:8.2f} %"
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The sweep, in the order of seeds, so that a part of it compares already."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--output_dir", default="runs/compare")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--max_train_steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once; mind OMP_NUM_THREADS")
    args, more = parser.parse_known_args(argv)
    claim_folder(Path(args.output_dir), {"max_train_steps": args.max_train_steps, "flags": more}, REPORT)
    combinations = list(itertools.product(args.seeds, args.learning_rates, args.methods))
    run_all([training(args, method, rate, seed, more) for seed, rate, method in combinations], args.jobs)
    results: dict[str, dict[str, list[dict[str, float]]]] = {
        method: {f"{rate:g}": [] for rate in args.learning_rates} for method in args.methods
    }
    for seed, rate, method in combinations:
        results[method][f"{rate:g}"].append(read(run_folder(args, method, rate, seed)))
    write_json(Path(args.output_dir) / "compare.json", results)
    base = statistics.mean(run["base"] for by_rate in results.values() for runs in by_rate.values() for run in runs)
    print(f"Loss on held-out pictures, base model {base:.4f}, {len(args.seeds)} seeds:")
    print(table(results))


def cli() -> None:
    """The command reslora-compare."""
    try:
        main()
    except (RuntimeError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    cli()
