"""Whatever the files of a run hold: no view raises, and none takes long."""

import json
import random
import time
from typing import Any

import pytest

from app import adapter_view, curves, drawings, grids, pictures, training
from app.library import Library
from app.tabs.shared import warnings_and_notes

_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    10**400,
    1.5,
    1e308,
    float("nan"),
    "",
    "x" * 3000,
    "<b>$\\frac{",
    "../../x",
    "\0",
    [],
    {},
    [[]],
    {"a": [1]},
    "\ud800",
]


def damage(value, chance):
    """The same with parts replaced, at random."""
    if chance.random() < 0.08:
        return chance.choice(_VALUES)
    if isinstance(value, dict):
        return {key: damage(one, chance) for key, one in value.items() if chance.random() > 0.05}
    if isinstance(value, list):
        return [damage(one, chance) for one in value]
    return value


def damage_file(path, chance):
    text = path.read_text()
    if path.suffix == ".json":
        text = json.dumps(damage(json.loads(text), chance))
    else:
        text = "".join(json.dumps(damage(json.loads(line), chance)) + "\n" for line in text.splitlines())
    data = bytearray(text.encode())
    for _ in range(chance.choice([0, 0, 3])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(bytes(data[: chance.choice([len(data), len(data), len(data) * 2 // 3])]))


@pytest.mark.parametrize("seed", range(25))
def test_no_view_raises_whatever_the_files_hold(made_up_pair, seed):
    chance = random.Random(seed)
    for path in made_up_pair:
        for name in ("run.json", "log.jsonl", "merge_report.json", "validation/index.jsonl"):
            damage_file(path / name, chance)
        pictures_there = sorted((path / "validation").rglob("*.png"))
        chance.choice(pictures_there).write_bytes(b"\x89PNG\r\n\x1a\n" + chance.randbytes(40))
    began = time.perf_counter()
    library = Library(made_up_pair)
    runs = library.get(library.names())
    assert len(runs) == 2 and library.state()
    assert "<b>$" not in warnings_and_notes(runs)
    for variant in pictures.variants(runs):
        for prompt in {key.prompt for run in runs.values() for key in run.pictures}:
            for picked in pictures.seeds_of(runs, prompt):
                for step in pictures.steps_of(runs, prompt, picked, variant):
                    assert len(pictures.views(runs, prompt, picked, variant, step)) >= 2
                grids.grid(runs, [prompt], picked, variant, cell=8)
    for metric in curves.METRICS:
        curves.table(runs, metric, 0.9, 5)
    first, second = runs.items()
    curves.reach_text("a", "b", curves.reach(first[1], second[1]))
    drawings.heat_map(first, second)
    for run in runs.values():
        drawings.link_plan(run)
        training.status(run)
        for approach in (*adapter_view.approaches(run), None):
            adapter_view.merge_table(run, approach)
        adapter_view.end_table(run)
        adapter_view.plan_summary(run)
        adapter_view.lora_summary(run)
    assert time.perf_counter() - began < 20
