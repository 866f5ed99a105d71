"""The Hub's data sets that tasks are read from, and when each of them was last known to load.

    python -m reslora_sd.text.hub            # tries every name now; needs the internet

`datasets` 4 and later refuse data sets that are a script. `allenai/math_qa` is one; its mirror has the same rows, which
reading checks by number and hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..training.command import run_command

logger = logging.getLogger("reslora_sd")


@dataclass(frozen=True)
class HubData:
    """A data set of the Hub."""

    name: str
    config: str | None
    """`None` where there is one; GLUE's are its tasks."""
    loaded: str | None
    """The date of the newest report that it loads without a script; `None` where none was found."""
    source: str
    """Who reported it."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """What is known of its rows."""


@dataclass(frozen=True)
class Split:
    """Rows of a split as they were published."""

    rows: int
    sha256: str | None = None
    """`rows_hash` of them; `None` where the published rows were not at hand."""


_SWEEP = "EleutherAI/lm-evaluation-harness#3171, which tried every data set of its tasks"

GSM8K = HubData("openai/gsm8k", "main", "2026-07-18", _SWEEP)
SVAMP = HubData("ChilleD/SVAMP", None, None, "no report found")
MATHQA = HubData(
    "regisss/math_qa",
    None,
    "2026-07-19",
    "EleutherAI/lm-evaluation-harness pull request 3943, which compared it with allenai/math_qa by hash",
    {
        "train": Split(29837),
        "validation": Split(4475, "0412769ad673d7f96d90a787d7fe388251a2d2c4f22a0d409a5669728b2cb7b8"),
        "test": Split(2985, "25dd1747dd02d33b63e04d1db43ec187dfe397910ec8100ec98db221bddf3a12"),
    },
)
METAMATHQA = HubData("meta-math/MetaMathQA", None, None, "no report found")
HELLASWAG = HubData("Rowan/hellaswag", None, "2026-09-22", "Xilinx/brevitas pull request 1624")
GLUE = HubData("nyu-mll/glue", "rte", "2026-07-18", _SWEEP)
ALL = (GSM8K, SVAMP, MATHQA, METAMATHQA, HELLASWAG, GLUE)
_HASHED = ("Problem", "Rationale", "options", "correct")


def rows_hash(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = _HASHED) -> str:
    """sha256 of the rows, whatever their order."""
    lines = sorted(json.dumps([str(row[column]) for column in columns], ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_rows(data: HubData, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compares a whole split with what was published; where it was not, nothing is compared.

    Another number of rows is an error. Other texts are told, as the hashes are of another copy (`shaigue/mathqa` on
    GitHub), and both may be right.

    Raises:
        ValueError: it has another number of rows.
    """
    published = data.splits.get(split)
    if published is None:
        return
    if len(rows) != published.rows:
        raise ValueError(
            f"{data.name} ({split}) has {len(rows)} rows, and {published.rows} were published. Give local files with "
            "--train_file and --test_file."
        )
    if published.sha256 is not None and rows_hash(rows) != published.sha256:
        logger.warning("The texts of %s (%s) are not those of the copy that it was compared with.", data.name, split)


def try_all() -> list[tuple[HubData, str | None]]:
    """Asks the Hub for every data set's description; with what was wrong, or `None`."""
    from datasets import load_dataset_builder

    found: list[tuple[HubData, str | None]] = []
    for data in ALL:
        try:
            load_dataset_builder(data.name, data.config)
        except Exception as error:  # the library raises many kinds: no network, no such name, a script
            found.append((data, str(error).splitlines()[0] if str(error) else type(error).__name__))
        else:
            found.append((data, None))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each data set.

    Raises:
        RuntimeError: one doesn't load.
    """
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args(argv)
    found = try_all()
    for data, error in found:
        last = f"last reported to load on {data.loaded} ({data.source})" if data.loaded else data.source
        print(f"{data.name}: {'loads' if error is None else error}; {last}")
    if failed := [data.name for data, error in found if error is not None]:
        raise RuntimeError(f"{len(failed)} of {len(found)} don't load: {', '.join(failed)}.")


if __name__ == "__main__":
    run_command(main)
