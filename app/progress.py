"""How long a training still takes: its steps, the pictures between them, and the merge at its end."""

from __future__ import annotations

from pathlib import Path

from reslora_sd.runs.names import LOG_FILE, RUN_FILE
from reslora_sd.runs.run import Run

_FINISH = {"lora": 20, "reslora_bs": 20}
_FINISH_OTHERS = 35
"""Merging, measuring and drawing at the end, in steps of the run: the demo's took 8.6 s at 0.42 s a step for lora, and
14.2 s for reslora_is, which measures statistics."""


def tell(run: Run, began: float | None, from_step: int) -> str:
    """Loss, pace, and the time that is left for the whole job.

    Args:
        began: when its process began.
        from_step: the step that it went on from.
    """
    loss = run.log[-1].get("loss") if run.log else None
    parts = [f"loss {loss:.4f}"] if loss is not None else []
    pace = _pace(run)
    if pace:
        parts.append(f"{pace:.2f} s a step")
        if run.steps:
            steps = max(0, run.steps - run.last_step) * _pace_with_pictures(run, pace, began, from_step)
            parts.append(f"{say_time(steps + finishing(run))} left, merging included")
    return ", ".join(parts) or "before its first step"


def finishing(run: Run) -> float:
    """Seconds that the end of a run takes, after its last step."""
    return _FINISH.get(run.method, _FINISH_OTHERS) * _pace(run)


def say_time(seconds: float) -> str:
    """For people: no more exact than it can be known."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def changed(file: Path) -> float:
    """When a file changed; 0 where there is none."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _pace(run: Run) -> float:
    """Seconds of a step alone, lately."""
    recent = [row["seconds"] for row in run.log[-20:] if "seconds" in row]
    return sum(recent) / len(recent) if recent else 0.0


def _pace_with_pictures(run: Run, pace: float, began: float | None, from_step: int) -> float:
    """Seconds a step by the clock, with what is drawn and measured between steps; loading the model isn't."""
    done = run.last_step - from_step
    if began is None or done < 1:
        return pace
    loaded = max(began, changed(run.path / RUN_FILE))
    return max(pace, (changed(run.path / LOG_FILE) - loaded) / done)
