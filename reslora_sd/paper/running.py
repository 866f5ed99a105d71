"""Trains what a plan lacks, by the training scripts: resumable, several at once, each run once. No torch itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..runs.checkpoints import list_checkpoints
from ..runs.sweep import Failure, Launching, Training, is_over, run_all
from .estimates import lacks
from .items import PICTURES, Item, family_of
from .keys import MADE_FOLDER, SCRIPTS, Place, words_of
from .planning import Plan, Planned, make_plan
from .presets import Preset
from .reading import is_done

_MODEL = {"nlg": "model", "nlu": "model", PICTURES: "pretrained_model_name_or_path"}


def run_items(items: Sequence[Item], preset: Preset, place: Place, jobs: int, launching: Launching) -> list[Failure]:
    """Trains what is missing: first the sweeps, and then, at the rates that they chose, what is reported.

    A run that isn't whole goes on from its last checkpoint. What can't be started for lack of data or a package is
    told, and left out.

    Returns:
        what failed, or was stopped by somebody else; the others are done.

    Raises:
        KeyboardInterrupt: as `run_all`.
    """
    if preset.is_made:
        from .made import make_all

        make_all(place.output / MADE_FOLDER)
    failures: dict[Path, Failure] = {}
    for _ in ("the rates are chosen", "what has its rate now"):
        plan = make_plan(items, preset, place)
        trainings = [one for one in _trainings(plan, print) if one.folder not in failures]
        failures |= {one.training.folder: one for one in run_all(trainings, jobs, launching)}
        stopped = [one for one in trainings if not is_over(one) and one.folder not in failures]
        failures |= {one.folder: Failure(one, "it was stopped before its end; this command goes on") for one in stopped}
    return list(failures.values())


def _trainings(plan: Plan, tell: Callable[[str], object]) -> list[Training]:
    """What can be started; tells what can't, each lack once."""
    found, missing = [], dict[str, int]()
    for planned in plan.runs.values():
        training = training_of(plan, planned)
        needed = [one.what for one in lacks(plan.preset, plan.place, planned.run) if one.stops]
        if needed and not is_over(training):
            for what in needed:
                missing[what] = missing.get(what, 0) + 1
        else:
            found.append(training)
    for what, count in missing.items():
        tell(f"{count} runs are left out. They need {what}")
    return found


def training_of(plan: Plan, planned: Planned) -> Training:
    """The command of a training."""
    run, preset = planned.run, plan.preset
    family = family_of(run.need.task)
    folder = run.folder(plan.place)
    flags = {
        **preset.machine(run.need.task),
        **run.flags,  # what --set gives counts
        _MODEL[family]: plan.place.model(run.model) or None,
        **{flag: str(plan.place.of(name)) for flag, name in run.files.items()},
        "learning_rate": run.rate,
        "seed": run.seed,
    }
    if family != PICTURES:
        flags["evaluate"] = flags.get("evaluate", "all") if planned.evaluated else "none"
    again = ["--resume_from_checkpoint", "latest"] if list_checkpoints(folder) else ["--overwrite_output_dir"]
    done = partial(is_done, task=run.need.task, evaluated=planned.evaluated)
    return Training(folder, script(SCRIPTS[family]), [*words_of(flags), *again], done)


def script(name: str) -> Path:
    """In the checkout beside the package, in an installation inside it."""
    package = Path(__file__).resolve().parents[1]
    places = [above / "train_scripts" / name for above in (package, package.parent)]
    return next(place for place in places if place.is_file())
