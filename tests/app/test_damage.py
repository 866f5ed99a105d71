"""Whatever the files of a run hold: no view raises, and none takes long."""

import contextlib
import json
import random
import shutil
import time
from typing import Any

import pytest

from app import adapter_view, curves, drawings, grids, pictures, run_card, run_list, training
from app.keeping import Kept
from app.library import Library, key_of
from app.tabs import runs as runs_tab
from app.tabs.card_html import card, settings_table, table
from app.tabs.shared import Page, warnings_and_notes
from reslora_sd.runs.reader import read_run

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


def damage_run(path, chance):
    for name in ("run.json", "log.jsonl", "merge_report.json", "validation/index.jsonl"):
        damage_file(path / name, chance)
    pictures_there = sorted((path / "validation").rglob("*.png"))
    chance.choice(pictures_there).write_bytes(b"\x89PNG\r\n\x1a\n" + chance.randbytes(40))


@pytest.mark.parametrize("seed", range(25))
def test_no_view_raises_whatever_the_files_hold(made_up_pair, seed):
    chance = random.Random(seed)
    for path in made_up_pair:
        damage_run(path, chance)
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
        curves.table(runs, metric, 0.9)
    first, second = runs.items()
    curves.reach_text("a", "b", curves.reach(first[1], second[1]))
    drawings.heat_map(first, second)
    first_name, second_name = runs
    assert "The card" not in table(run_list.items(library), 2, None) + settings_table(
        first_name, second_name, runs, only=False
    )
    for run in runs.values():
        card("x", run, Kept())
        with contextlib.suppress(ValueError):  # is told
            run_card.settings_file(run)
        drawings.link_plan(run)
        training.status(run)
        for approach in (*adapter_view.approaches(run), None):
            adapter_view.merge_table(run, approach)
        adapter_view.end_table(run)
        adapter_view.plan_summary(run)
        adapter_view.lora_summary(run)
    assert time.perf_counter() - began < 20


def test_one_hostile_run_leaves_the_others_to_be_seen(made_up_pair, tmp_path):
    first, second = made_up_pair
    lines = (first / "validation/index.jsonl").read_text().splitlines()
    hostile = [{**json.loads(line), "seed": seed} for line, seed in zip(lines, (2**70, -1, True, 7), strict=False)]
    (first / "validation/index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hostile))
    about = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**about, "method": "LoRA, " + str(tmp_path / "third")}))
    for name in ("third", "fourth"):
        shutil.copytree(first, tmp_path / name)
    runs = Library([first, second, tmp_path / "fourth", tmp_path / "third"]).names()
    assert len(runs) == 4
    (read,) = Library([first]).get(["LoRA"]).values()
    assert [key.seed for key in read.pictures] == [7] and any("left out" in note for note in read.notes)


def test_names_that_come_out_the_same_are_numbered(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "a" / "run"]
    taken = ["LoRA, a/run", f"LoRA, {folders[1]}"]
    for number, (folder, method) in enumerate(
        zip([*folders, tmp_path / "c", tmp_path / "d"], ["lora", "lora", *taken], strict=True)
    ):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"method": method, "number": number}))
    names = Library([tmp_path / "c", tmp_path / "d", *folders]).names()
    assert len(names) == 4 and sum(name.startswith("LoRA, ") for name in names) == 4


def test_a_link_plan_of_any_length_is_drawn_in_part(made_up):
    about = json.loads((made_up / "run.json").read_text())
    names = [f"blocks.{number}.to_q" for number in range(3000)]
    plan = [
        {"name": name, "chain": "to_q", "tokens": 4, "out_features": 8, "predecessors": names[:90]} for name in names
    ]
    (made_up / "run.json").write_text(json.dumps({**about, "link_plan": plan}))
    drawn = drawings.link_plan(read_run(made_up))
    assert "96 of 3000 blocks are drawn" in drawn and len(drawn) < 1_000_000


@pytest.mark.parametrize("odd", [{"max_train_steps": "many"}, {"pretrained_model_name_or_path": [5]}, {"seed": [[]]}])
def test_an_odd_setting_is_told_in_the_card_and_in_its_download(made_up, odd):
    (made_up / "run.json").write_text(json.dumps({"method": "lora", "arguments": odd}))
    run = read_run(made_up)
    (name,) = odd
    assert name in card("lora", run, Kept())
    with pytest.raises(ValueError, match=f"run.json has {name}"):
        run_card.settings_file(run)
    (made_up / "run.json").write_text(json.dumps({"method": "lora", "arguments": {"max_train_steps": "100"}}))
    assert json.loads(run_card.settings_file(read_run(made_up)))["max_train_steps"] == 100


def test_a_card_that_fails_leaves_the_list(made_up, tmp_path, monkeypatch):
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here")
    monkeypatch.setattr(runs_tab, "_card", lambda *_: 1 / 0)
    listed, which, shown, *_ = runs_tab._draw(page)(None, None, "", "name", key_of(made_up), True, "")
    assert ">LoRA<" in listed and which.value == key_of(made_up) and "The card of LoRA can" in shown
