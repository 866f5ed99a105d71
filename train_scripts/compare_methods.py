"""Trains each method at several learning rates and seeds, and compares them, each at its own best rate.

    python train_scripts/compare_methods.py --output_dir runs/compare

runs train_text_to_image_reslora.py for every combination on the same data, noise and held-out pictures, and prints the
loss on the held-out pictures: of the unmerged model and of the exported LoRA. Flags that it doesn't know, of the
command line or of --config FILE, go to the training script. A run that is done is not run again, so that a sweep that
was stopped continues with the same command.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from reslora_sd.runs.atomic import write_json
from reslora_sd.runs.names import METHODS, REPORT_FILE
from reslora_sd.runs.sweep import claim_folder, has_result, read_result, run_all
from reslora_sd.training.command import run_command
from reslora_sd.training.comparison import ComparisonSettings, over_seeds
from reslora_sd.training.method import OurMethod
from reslora_sd.training.options import check_at_least, option
from reslora_sd.training.parser import SettingsParser

SCRIPT = Path(__file__).with_name("train_text_to_image_reslora.py")

KEYS = ("end_to_end", "approach")
"""What is read of a run's merge_report.json."""


@dataclass(frozen=True)
class UnetComparison(ComparisonSettings):
    """A sweep over trainings of a U-Net."""

    methods: list[OurMethod] = option(list(METHODS), "Methods to compare.")
    learning_rates: list[float] = option([5e-4, 1e-3, 2e-3, 4e-3], "Rates that every method is tried at.")
    max_train_steps: int = option(200, "Optimizer steps of a run.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ("max_train_steps",))


def read(folder: Path) -> dict[str, float]:
    """Held-out losses of one run, by model: base, unmerged, exported; and its drift."""
    file = folder / REPORT_FILE
    report = read_result(file, KEYS)
    try:
        loss, approach = report["end_to_end"]["loss"], report["approach"]
        drift = report["end_to_end"]["drift"][approach]
        return {"base": loss["base"], "unmerged": loss["unmerged"], "exported": loss[approach], "drift": drift}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}. Remove it, and start the same command again.") from error


def table(results: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> str:
    """Held-out loss by method and learning rate (mean over seeds), and each method at its best rate."""
    rates = list(next(iter(results.values())))
    head = "".join(f"{'lr ' + rate:>11}" for rate in rates)
    rows = [f"{'method':12}{head}   best: unmerged   exported     drift"]
    for method, by_rate in results.items():
        losses = {rate: over_seeds([run["unmerged"] for run in runs]) for rate, runs in by_rate.items()}
        best = min(losses, key=losses.__getitem__)
        mean, deviation = losses[best]
        exported, drift = (fmean(run[key] for run in by_rate[best]) for key in ("exported", "drift"))
        cells = "".join(f"{losses[rate][0]:11.4f}" for rate in rates)
        rows.append(f"{method:12}{cells}   {mean:.4f} +-{deviation:.4f} {exported:9.4f} {100 * drift:8.2f} %")
    return "\n".join(rows)


def parse(argv: Sequence[str] | None = None) -> tuple[UnetComparison, list[str]]:
    """The sweep's settings, and the words that are for the training script.

    Raises:
        ValueError: a value is invalid, or the config file can't be read.
    """
    (settings,), more = SettingsParser([UnetComparison], (__doc__ or "").split("\n")[0]).parse_known(argv)
    return settings, more


def main(settings: UnetComparison, more: Sequence[str]) -> None:
    """The sweep, in the order of seeds, so that a part of it compares already.

    Args:
        more: flags of the training script.
    """
    steps = str(settings.max_train_steps)
    flags = ["--max_train_steps", steps, "--validation_steps", steps, "--overwrite_output_dir", "--report", *more]
    claim_folder(settings.folder, {"max_train_steps": settings.max_train_steps, "flags": list(more)}, REPORT_FILE)
    combinations = list(itertools.product(settings.seeds, settings.learning_rates, settings.methods))
    run_all(
        [
            settings.training(SCRIPT, method, rate, seed, flags, lambda folder: has_result(folder / REPORT_FILE, KEYS))
            for seed, rate, method in combinations
        ],
        settings.jobs,
    )
    results: dict[str, dict[str, list[dict[str, float]]]] = {
        method: {f"{rate:g}": [] for rate in settings.learning_rates} for method in settings.methods
    }
    for seed, rate, method in combinations:
        results[method][f"{rate:g}"].append(read(settings.run_folder(method, rate, seed)))
    write_json(settings.folder / "compare.json", results)
    base = fmean(run["base"] for by_rate in results.values() for runs in by_rate.values() for run in runs)
    print(f"Loss on held-out pictures, base model {base:.4f}, {len(settings.seeds)} seeds:")
    print(table(results))


def cli() -> None:
    """The command reslora-compare."""
    run_command(lambda: main(*parse()))


if __name__ == "__main__":
    cli()
