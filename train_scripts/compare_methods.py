"""Compares methods on pictures, each at its own best learning rate, over several seeds.

    python train_scripts/compare_methods.py --output_dir runs/compare

First train_text_to_image_reslora.py trains every method at every rate with the first seed; the loss of pictures that
are kept out of training (--validation_samples) chooses its rate. At that rate it is then trained with all seeds. The
figures are of other pictures that are kept out (--test_samples): the loss of the unmerged model and of every merge.
compare.json, compare.md (a table) and compare.png (the sweep) are written. Flags that this script doesn't know, of the
command line or of --config FILE, go to the training script. Runs that are done are not run again: after a stop, the
same command goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.runs.jsonl import is_number, read_jsonl
from reslora_sd.runs.names import BASE, LOG_FILE, METHODS, REPORT_FILE, RUN_FILE, UNMERGED
from reslora_sd.runs.sweep import DIVERGED_FILE, Training, claim_folder, has_result, read_result
from reslora_sd.training.command import run_command
from reslora_sd.training.comparison import ComparisonSettings, Protocol, check_passed_on, compare
from reslora_sd.training.method import OurMethod
from reslora_sd.training.options import check_at_least, option
from reslora_sd.training.parser import SettingsParser

SCRIPT = Path(__file__).with_name("train_text_to_image_reslora.py")

KEYS = ("end_to_end", "test", "validation")
"""What is read of a run's merge_report.json."""
PARAMETERS = "trainable_parameters"
"""Of its run.json."""
_KEPT_OUT = 30
"""Pictures of an embedded style's unseen names, or of OpenMoji, for either purpose."""


@dataclass(frozen=True)
class UnetComparison(ComparisonSettings):
    """A sweep over trainings of a U-Net."""

    methods: list[OurMethod] = option(list(METHODS), "Methods to compare.")
    learning_rates: list[float] = option([5e-4, 1e-3, 2e-3, 4e-3], "Rates that every method is tried at.")
    max_train_steps: int = option(200, "Optimizer steps of a run.")
    validation_samples: int | None = option(
        None, "Pictures kept out of training, whose loss chooses a method's rate (without data of your own: 30)."
    )
    test_samples: int | None = option(
        None, "Other pictures kept out, the same for every seed, that are reported on (without data of your own: 30)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ("max_train_steps", "validation_samples", "test_samples"))


def with_pictures_kept_out(settings: UnetComparison, own_data: bool) -> UnetComparison:
    """The settings with both numbers of pictures.

    Raises:
        ValueError: the data is the user's own, and one is left out.
    """
    for name in ("validation_samples", "test_samples"):
        if getattr(settings, name) is None and own_data:
            raise ValueError(
                f"--{name} is left out. Of your own pictures, say how many are kept out of training to choose the "
                "rates by (--validation_samples), and how many others to report on (--test_samples), such as a tenth "
                "each."
            )
    kept, test = settings.validation_samples or _KEPT_OUT, settings.test_samples or _KEPT_OUT
    return replace(settings, validation_samples=kept, test_samples=test)


def protocol_of(settings: UnetComparison, more: Sequence[str], draws: bool) -> Protocol:
    """How a run is launched and read, and on which pictures it is measured.

    Args:
        draws: whether there are prompts, so that pictures are drawn at the start and the end.
    """
    steps = str(settings.max_train_steps)
    flags = ["--validation_steps", steps, *more] if draws else more
    return Protocol(
        title=f"Pictures, {settings.max_train_steps} steps",
        chosen_by=f"{settings.validation_samples} pictures kept out of training",
        reported_on=f"{settings.test_samples} other pictures kept out of training, the same for every seed",
        training=partial(training, settings, flags),
        read=read,
    )


def training(
    settings: UnetComparison, more: Sequence[str], method: str, rate: float, seed: int, reported: bool
) -> Training:
    """One run: the same whether it is reported or only chooses."""
    flags = [
        "--max_train_steps",
        str(settings.max_train_steps),
        "--validation_samples",
        str(settings.validation_samples),
        "--test_samples",
        str(settings.test_samples),
        "--overwrite_output_dir",
        "--report",
        *more,
    ]
    return settings.training(SCRIPT, method, rate, seed, flags, is_done)


def is_done(folder: Path) -> bool:
    """Whether all files that `read` needs are there; without one of them, the run is made again."""
    told = has_result(folder / REPORT_FILE, KEYS) and has_result(folder / RUN_FILE, [PARAMETERS])
    return told and (folder / LOG_FILE).is_file()


def read(folder: Path) -> Mapping[str, Any]:
    """What a run says, by model: base, unmerged, and every merge with its drift.

    Raises:
        ValueError: a file of it is damaged.
    """
    file = folder / REPORT_FILE
    report = read_result(file, KEYS)
    log = read_jsonl(folder / LOG_FILE)
    seconds, memory = ([row[key] for row in log if is_number(row.get(key))] for key in ("seconds", "memory"))
    if not seconds:
        raise ValueError(f"{folder / LOG_FILE} has no step. Remove it, and start the same command again.")
    try:
        loss, drift = report["end_to_end"]["loss"], report["end_to_end"]["drift"]
        results = {name: {"loss": loss[name]} for name in (BASE, UNMERGED)}
        results |= {f"merged: {name}": {"loss": loss[name], "drift": drift[name]} for name in drift}
        return {
            "validation_loss": report["validation"]["loss"],
            "results": results,
            "seconds_per_step": fmean(seconds),
            "peak_memory_mb": max(memory, default=0.0),
            PARAMETERS: read_result(folder / RUN_FILE, [PARAMETERS])[PARAMETERS],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}. Remove it, and start the same command again.") from error


def parse(argv: Sequence[str] | None = None) -> tuple[UnetComparison, list[str]]:
    """The sweep's settings, and the words that are for the training script.

    Raises:
        ValueError: a value is invalid, or the config file can't be read.
    """
    (settings,), more = SettingsParser([UnetComparison], (__doc__ or "").split("\n")[0]).parse_known(argv)
    own = {"report": "Leave it out.", "no_report": "Leave it out.", "num_train_epochs": "Give --max_train_steps."}
    check_passed_on(more, own)
    return settings, more


def main(settings: UnetComparison, more: Sequence[str]) -> None:
    """The sweep over rates, the runs at the best ones, and what they say.

    Args:
        more: flags of the training script.
    """
    of_a_run = parse_settings(more)
    settings = with_pictures_kept_out(settings, of_a_run.data.is_own)
    common = {key: getattr(settings, key) for key in ("max_train_steps", "validation_samples", "test_samples")}
    claim_folder(settings.folder, {**common, "flags": list(more)}, REPORT_FILE, DIVERGED_FILE)
    print(compare(settings, protocol_of(settings, more, bool(of_a_run.validation.validation_prompts))))


def cli() -> None:
    """The command reslora-compare."""
    run_command(lambda: main(*parse()))


if __name__ == "__main__":
    cli()
