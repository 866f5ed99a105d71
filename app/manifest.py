"""All that a browser needs to move through the steps by itself: for each step its pictures' addresses and texts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reslora_sd.runs.run import PictureKey, Run, is_text

from . import pictures
from .library import key_of
from .selection import Selection

STEP = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the step in texts: they are sent once and not for each step."""
MOST_SIDES, MOST_STEPS = 6, 2000
"""Pictures beside each other, and steps that a browser gets."""


def manifest(runs: Mapping[str, Run], chosen: Selection, token_of: Callable[[Path], str]) -> dict[str, Any]:
    """Steps, and for each run a row of files with their texts.

    Args:
        runs: those of `chosen`, by the names that are shown.
        token_of: names a run's folder in addresses of pictures.
    """
    sides = list(runs)[:MOST_SIDES]
    if runs and all(is_text(run.settings) for run in runs.values()):
        return nothing(pictures.NO_PICTURES.format(next(iter(runs))))
    if chosen.prompt is None or chosen.seed is None:
        return nothing("The chosen runs have no such pictures yet" if runs else "Choose a run above")
    all_steps = pictures.steps_of(runs, chosen.prompt, chosen.seed, chosen.variant)
    if not all_steps:
        return nothing("The chosen runs have no such pictures yet")
    steps = spread(all_steps, MOST_STEPS)
    names = {key_of(run.path): name for name, run in runs.items()}
    pair = [names[key] for key in (chosen.a, chosen.b) if key in names]
    rows = list(dict.fromkeys([*sides, *pair]))
    real = pictures.reference_of({name: runs[name] for name in sides}, chosen.prompt)
    said = f" ({len(steps)} of {len(all_steps)} are shown)" if len(steps) < len(all_steps) else ""
    return {
        "steps": steps,
        "span": f"{all_steps[0]} to {all_steps[-1]}{said}",
        "rows": [_row(name, runs[name], chosen, steps, token_of) for name in rows],
        "sides": len(sides),
        "pair": [rows.index(name) for name in pair],
        "real": _real(*real, token_of) if real is not None else None,
        "why": "",
    }


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most so many, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def stamp(mtime_ns: int, size: int) -> str:
    """Part of a picture's address: it changes with the file, so that an address means the same picture for good."""
    return hashlib.sha256(f"{mtime_ns} {size}".encode()).hexdigest()[:12]


def nothing(why: str) -> dict[str, Any]:
    """A manifest without pictures, and why it has none."""
    return {"steps": [], "span": "", "rows": [], "sides": 0, "pair": [], "real": None, "why": why}


def _row(
    name: str, run: Run, chosen: Selection, steps: Sequence[int], token_of: Callable[[Path], str]
) -> dict[str, Any]:
    assert chosen.prompt is not None and chosen.seed is not None
    nothing, alt = pictures.missing_view(name, run, chosen.prompt, chosen.seed, chosen.variant, STEP)
    used = pictures.variant_of(run, chosen.variant)
    found = [run.pictures.get(PictureKey(chosen.prompt, chosen.seed, used, step)) for step in steps]
    return {
        "name": name,
        "key": token_of(run.path),
        "title": nothing.title,
        "alt": alt,
        "missing": nothing.missing,
        "files": [None if one is None else _address(run, one.file) for one in found],
    }


def _real(run: Run, file: str, title: str, alt: str, token_of: Callable[[Path], str]) -> dict[str, Any]:
    return {"key": token_of(run.path), "title": title, "alt": alt, "file": _address(run, file)}


def _address(run: Run, file: str) -> str:
    """What comes after the run's key. Whether the file may be shown is decided when it is asked for."""
    try:
        found = os.stat(run.validation / file)
        return f"{stamp(found.st_mtime_ns, found.st_size)}/{quote(file)}"
    except (OSError, ValueError):
        return f"{stamp(0, 0)}/{quote(file)}"
