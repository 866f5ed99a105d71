"""What a resumed run takes from its checkpoint, and what from its flags. No torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runs.checkpoints import find_checkpoint, list_checkpoints
from ..runs.contents import holds_run
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import RUN_FILE

logger = logging.getLogger("reslora_sd")


def checkpoint_to_resume(run: RunFolder, asked: str | None, overwrite: bool) -> Path | None:
    """The checkpoint that a run goes on from; `None` where it starts. Nothing is written.

    Without a run in the folder, `latest` starts one, as in diffusers' scripts: the same command starts and continues.

    Args:
        asked: `--resume_from_checkpoint`.
        overwrite: what is in the folder doesn't count.

    Raises:
        ValueError: the folder holds another run, or a part of the checkpoint is missing or damaged.
        FileNotFoundError: there is no such checkpoint.
    """
    checkpoint = None
    if asked == "latest" and not list_checkpoints(run.path) and (overwrite or not holds_run(run.path)):
        logger.warning("%s has no checkpoint to resume from: the training starts at its first step.", run.path)
    elif asked:
        checkpoint = find_checkpoint(run.path, asked)
    run.check(resume=run.owns(checkpoint), overwrite=overwrite)
    return checkpoint


def check_unchanged(
    run: RunFolder, checkpoint: Path | None, now: Mapping[str, Any], breaks: Callable[[str, Any, Any], bool]
) -> None:
    """Whether a run that goes on from its own checkpoint has the settings that it was started with, where it must.

    A checkpoint of another folder starts a run of its own, and isn't compared. Nor is a flag that run.json lacks, since
    it is newer than the run.

    Args:
        now: all flags of this command, by name.
        breaks: whether a flag, by its name, value before and value now, would make it another run.

    Raises:
        ValueError: it names each flag that would, and both values.
    """
    if checkpoint is None or not run.owns(checkpoint):
        return
    notes: list[str] = []
    before = read_object(run.path / RUN_FILE, notes.append).get("arguments")
    if not isinstance(before, dict):
        why = " ".join(notes) or f"{RUN_FILE} has no arguments."
        logger.warning("%s: %s Give the flags that the run was started with: they can't be checked.", run.path, why)
        return
    values = json.loads(json.dumps(now, default=str))
    changed = [
        f"--{name} was {_said(before[name])} and is {_said(value)}"
        for name, value in values.items()
        if name in before and breaks(name, before[name], value)
    ]
    if changed:
        raise ValueError(
            f"{checkpoint} is of a run with other settings: {'; '.join(changed)}. Resume with the same, or start "
            "another run in another --output_dir."
        )


def is_same_place(before: Any, now: Any) -> bool:
    """Whether two paths lead to one folder or file; names of the Hub have to be equal."""
    both_given = isinstance(before, str) and isinstance(now, str)
    return bool(before == now) or (both_given and Path(before).resolve() == Path(now).resolve())


def _said(value: Any) -> str:
    return "left out" if value is None else json.dumps(value, ensure_ascii=False)


@contextmanager
def own_rates(optimizer: Any, lr_scheduler: Any) -> Iterator[None]:
    """Keeps the optimizer's settings, such as its rate, while a checkpoint is loaded, which holds those of its run.

    Moments, step counts and the schedule's place are the checkpoint's. The schedule is a `LambdaLR`.
    """
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    rates = list(lr_scheduler.base_lrs)
    yield
    lr_scheduler.base_lrs = rates
    place = lr_scheduler.last_epoch
    now = [rate * factor(place) for rate, factor in zip(rates, lr_scheduler.lr_lambdas, strict=True)]
    for group, kept, rate in zip(optimizer.param_groups, groups, now, strict=True):
        group.update({**kept, "lr": rate})
    lr_scheduler._last_lr = now
