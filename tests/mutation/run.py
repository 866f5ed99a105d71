"""Mutation testing of the core: changes one place of blocks/, plan/ or merging/ at a time, and runs that room's tests.

    make mutation                 every mutant: hours
    make mutation SAMPLE=200      so many, drawn with a seed, the same each time
    python -m tests.mutation.run --sample 100 --rooms rules --jobs 4

A mutant that fails no test survives, and is printed: a test is missing, or the change is none.
Works on copies of the tree. Needs cosmic-ray: pip install -e .[mutation].
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkerOutcome, WorkResult

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROOMS = ("blocks", "plan", "unet", "rules", "statistics", "plain")
SKIPPED = WorkResult(output="not in the sample", worker_outcome=WorkerOutcome.SKIPPED)


def init(room: str, session: Path) -> None:
    """A session with every mutant of a room, but those of excluded operators."""
    config = str(HERE / f"{room}.toml")
    call("cosmic-ray", "init", config, str(session), cwd=ROOT)
    call("cr-filter-operators", str(session), config, cwd=ROOT)


def call(tool: str, *arguments: str, cwd: Path) -> None:
    """One of cosmic-ray's programs, from the environment that this runs in; the tests' `python` comes from PATH."""
    environment = {**os.environ, "PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"}
    subprocess.run([str(Path(sys.executable).parent / tool), *arguments], cwd=cwd, env=environment, check=True)


def key_of(item: Any) -> tuple[Any, ...]:
    """What names a mutant in every session."""
    mutation = item.mutations[0]
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


def pending(session: Path) -> list[tuple[Any, ...]]:
    with use_db(str(session), WorkDB.Mode.open) as database:
        return sorted(key_of(item) for item in database.pending_work_items)


def run_shard(room: str, chosen: set[tuple[Any, ...]], work: Path) -> list[tuple[tuple[Any, ...], Any]]:
    """Runs some of a room's mutants in a copy of the tree.  -> each with its result"""
    work.mkdir()
    for folder in ("reslora_sd", "tests"):
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", work)
    session = work / "session.sqlite"
    init(room, session)
    with use_db(str(session), WorkDB.Mode.open) as database:
        others = [item.job_id for item in database.pending_work_items if key_of(item) not in chosen]
        database.set_multiple_results(others, SKIPPED)
    call("cosmic-ray", "exec", str(HERE / f"{room}.toml"), str(session), cwd=work)
    with use_db(str(session), WorkDB.Mode.open) as database:
        done = [(key_of(item), result) for item, result in database.completed_work_items]
    return [(key, result) for key, result in done if key in chosen]


def report(results: list[tuple[tuple[Any, ...], Any]], count: int) -> None:
    """Survivors with their diffs, then the share that was killed."""
    survivors = [(key, result) for key, result in results if not result.is_killed]
    for (path, (line, column), operator, _), result in sorted(survivors, key=lambda pair: pair[0]):
        changed = re.findall(r"^[+-](?![+-]).*$", result.diff or "", re.MULTILINE)
        print(f"\n{path}:{line}:{column} {operator}: {result.worker_outcome.value}", *changed, sep="\n  ")
    killed = len(results) - len(survivors)
    print(f"\n{killed} of {len(results)} mutants killed ({killed / max(len(results), 1):.1%}); there are {count}.")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=ROOMS)
    parser.add_argument("--sample", type=int, help="so many mutants of all rooms together; left out: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        every = []
        for room in args.rooms:
            init(room, Path(folder) / f"{room}.sqlite")
            every += [(room, key) for key in pending(Path(folder) / f"{room}.sqlite")]
        count = len(every)
        chosen = every if args.sample is None else random.Random(args.seed).sample(every, min(args.sample, count))
        shards = []
        for room in args.rooms:
            keys = [key for own, key in chosen if own == room]
            parts = [set(keys[start :: args.jobs]) for start in range(args.jobs)]
            shards += [(room, part, Path(folder) / f"{room}-{number}") for number, part in enumerate(parts) if part]
        done = list(pool.map(lambda shard: run_shard(*shard), shards))
    report([pair for part in done for pair in part], count)


if __name__ == "__main__":
    main()
