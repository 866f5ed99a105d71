"""What a run's adapter looks like inside: which block follows which, how it was merged, how large it became."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reslora_sd.runs.jsonl import is_number, is_step
from reslora_sd.runs.names import RESULTS_FILE
from reslora_sd.runs.run import Run

from .text_runs import results as text_results
from .wording import OF_RESULTS, method_name, variant_name

MERGE_COLUMNS = ["block", "factor", "rank", "error of its branch", "norm of its change", "x_n explains"]
"""Of the merge's table; the last one is the share of the input of the block before that is a linear map of its own."""
_MOST_STEPS, _MOST_FIGURES = 20, 12
_MOST_BLOCKS = 3000
"""Of a report: FLUX has 494."""
_SHORT = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.(\d+)")
_SHORT_MID = re.compile(r"mid_block\.attentions\.(\d+)\.transformer_blocks\.(\d+)")


@dataclass(frozen=True)
class PlannedBlock:
    """One block of the link plan, on the map that is drawn: places along the U-Net by lanes of projections."""

    name: str
    place: str
    lane: str
    tokens: int
    width: int
    predecessors: tuple[str, ...]
    reason: str


def planned_blocks(run: Run) -> list[PlannedBlock]:
    """The blocks of run.json's link plan in the order in which the model runs them; broken entries are left out."""
    plan = run.settings.get("link_plan")
    found = []
    for entry in plan if isinstance(plan, list) else []:
        if not isinstance(entry, dict):
            continue
        name, lane, before = entry.get("name"), entry.get("chain"), entry.get("predecessors")
        tokens, width = entry.get("tokens"), entry.get("out_features")
        if not (isinstance(name, str) and isinstance(lane, str) and isinstance(before, list)):
            continue
        place = name.removesuffix(lane).rstrip(".")
        found.append(
            PlannedBlock(
                name,
                place,
                lane,
                tokens if is_step(tokens) else 0,
                width if is_step(width) else 0,
                tuple(one for one in before if isinstance(one, str)),
                str(entry.get("reason", "")),
            )
        )
    return found


def short_place(place: str) -> str:
    """`down 0.1` for `down_blocks.0.attentions.1.transformer_blocks.0`; other names as they are."""
    match, mid = _SHORT.search(place), _SHORT_MID.search(place)
    if match:
        side, stage, attention, block = match.groups()
        return f"{side} {stage}.{attention}" + (f".{block}" if block != "0" else "")
    if mid:
        return f"mid {mid.group(1)}" + (f".{mid.group(2)}" if mid.group(2) != "0" else "")
    return place[-24:]


def plan_summary(run: Run) -> str:
    """One line: how many blocks, how many with a path."""
    found = planned_blocks(run)
    if not found:
        return "run.json holds no link plan."
    linked = sum(bool(block.predecessors) for block in found)
    text = f"{len(found)} blocks, {linked} with a residual path, {len(found) - linked} that start a chain."
    config = run.settings.get("lora_config")
    config = config if isinstance(config, dict) else {}
    if config.get("residual") in ("input", "frozen") and config.get("first_block") == "self":
        text += " A block that starts a chain runs as LoRA at twice the scale (first_block self)."
    return text


def lora_summary(run: Run) -> str:
    """The LoRA that the run started from, and those that it saved on the way; empty without any."""
    told = []
    start = run.settings.get("init_lora")
    if isinstance(start, dict) and isinstance(start.get("file"), str) and isinstance(start.get("blocks"), dict):
        off: Any = start.get("drift")
        known = isinstance(off, float) and is_number(off)
        much = f"; at step 0 it was off by {100 * off:.2g}% of what that LoRA changes" if known else ""
        told.append(f"Started from {Path(start['file']).name[:80]}: {len(start['blocks'])} blocks{much}.")
    if run.loras:
        steps = ", ".join(map(str, run.loras[:_MOST_STEPS])) + (", ..." if len(run.loras) > _MOST_STEPS else "")
        told.append(f"LoRAs merged on the way, in loras/: after step {steps}.")
    return " ".join(told)


def approaches(run: Run) -> list[str]:
    """Merge approaches that the report has, the exported one first."""
    others = run.report.get("other_approaches")
    found = [run.exported] if run.exported else []
    return found + [name for name in others if name not in found] if isinstance(others, dict) else found


def merged_blocks(run: Run, approach: str | None = None) -> dict[str, dict[str, Any]]:
    """{block: its factor, rank, error and norm} of an approach; of the exported one by default."""
    others = run.report.get("other_approaches")
    if approach is None or approach == run.exported:
        blocks = run.report.get("blocks")
    else:
        blocks = others.get(approach) if isinstance(others, dict) else None
    if not isinstance(blocks, dict):
        return {}
    found = {name: values for name, values in blocks.items() if isinstance(values, dict)}
    return dict(itertools.islice(found.items(), _MOST_BLOCKS))


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number, or `None`."""
    value = values.get(key)
    return float(value) if value is not None and is_number(value) else None


def merge_table(run: Run, approach: str | None = None) -> pd.DataFrame:
    """A row a block: its place, factor or factors, rank, error of its merged branch, ||delta W||_F, and what share of
    the input of the block before its own input explains."""
    rows = []
    for name, values in merged_blocks(run, approach).items():
        alpha, alphas = number(values, "alpha"), values.get("alphas")
        several = [one for one in alphas if is_number(one)] if isinstance(alphas, list) else []
        factor = f"{alpha:.4f}" if alpha is not None else ", ".join(f"{one:.3f}" for one in several)
        error, norm, rank = number(values, "error"), number(values, "norm"), number(values, "r")
        explained = number(values, "explained")
        rows.append(
            (
                name,
                factor or "a matrix" if approach == "least_squares" else factor or "none",
                "" if rank is None else str(int(rank)),
                "not measured" if error is None else f"{100 * error:.2f} %",
                "not in this report" if norm is None else f"{norm:.4f}",
                "" if explained is None else f"{100 * explained:.1f} %",
            )
        )
    return pd.DataFrame(rows, columns=MERGE_COLUMNS)


def end_table(run: Run) -> pd.DataFrame:
    """A row for the base model, the unmerged one and each approach: loss and drift of the whole model."""
    if run.results:
        return _end_of_text(run)
    end = _table(run.report.get("end_to_end"))
    loss, drift = (_table(end.get(key)) for key in ("loss", "drift"))
    rows = []
    for name in dict.fromkeys([*loss, *drift]):
        lost, moved = number(loss, name), number(drift, name)
        rows.append(
            (
                f"{variant_name(name)} (exported)" if name == run.exported else variant_name(name),
                "" if lost is None else f"{lost:.4f}",
                "" if moved is None else f"{100 * moved:.2f} %",
            )
        )
    return pd.DataFrame(rows, columns=["model", "loss", "drift"])


def _end_of_text(run: Run) -> pd.DataFrame:
    """A text run has every figure of each form, and the divergence from the unmerged model for the drift."""
    figures = text_results(run)
    names = list(dict.fromkeys(name for row in figures.values() for name in row))[:_MOST_FIGURES]
    exported = f"{OF_RESULTS}{run.exported}"
    rows = []
    for form, row in figures.items():
        values = (number(row, name) for name in names)
        named = variant_name(form) + (" (exported)" if form == exported else "")
        rows.append((named, *("" if value is None else f"{value:.4f}" for value in values)))
    return pd.DataFrame(rows, columns=["model", *names])


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def norm_differences(reference: Run, other: Run) -> tuple[dict[str, float], str]:
    """{block: ||delta W||_F of the other's merge minus the reference's}, and what is missing, if anything is.

    As the paper's Figs. 5 and 7: both merged, norms subtracted block by block.
    """
    a, b = merged_blocks(reference), merged_blocks(other)
    for run, blocks in ((reference, a), (other, b)):
        if not blocks and run.results:
            return (
                {},
                f"{method_name(run.name)} is a text run without a merge report: its figures are in {RESULTS_FILE}.",
            )
        if not blocks:
            return {}, f"{method_name(run.name)} has no merge report yet: it is written when training has ended."
    norms = {name: (number(a[name], "norm"), number(b[name], "norm")) for name in b if name in a}
    found = {
        name: after - before for name, (before, after) in norms.items() if before is not None and after is not None
    }
    if not norms:
        return {}, "The two runs have no block in common: they are of different models or targets."
    if not found:
        return {}, "A merge report has no norms: it is of an older version. Train again, or merge again."
    left = len(a.keys() | b.keys()) - len(found)
    return found, f"{left} blocks are in one of the runs only, or have no norm." if left else ""
