"""Presets: those of the package, files of users, changes."""

from pathlib import Path

import pytest
import yaml

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.paper.items import Need, all_items, needs_of
from reslora_sd.paper.keys import Place, make_run
from reslora_sd.paper.planning import Plan, Planned, make_plan
from reslora_sd.paper.presets import FOLDER, load_preset, preset_names
from reslora_sd.paper.running import training_of
from reslora_sd.text.arguments import CLASSIFICATION, GENERATION

PLACE = Place(Path("out"), Path("data"))


def test_the_presets_are_these():
    assert preset_names() == ["official", "paper", "small", "smoke"]


@pytest.mark.parametrize("name", ["official", "paper", "small", "smoke"])
def test_every_training_of_a_preset_is_a_command_that_its_script_takes(name):
    """Each task once, and each method: others only join their flags."""
    preset = load_preset(name)
    here = "--use_cpu"  # this machine has no GPU for bf16
    needs = [need for need in needs_of(all_items().values()) if preset.has(need)]
    tasks, methods = {need.task: need for need in needs}, {(need.method, need.rank): need for need in needs}
    for need in {*tasks.values(), *methods.values()}:
        run = make_run(preset, PLACE, need, preset.rates(need)[0], 1)
        training = training_of(Plan(preset, PLACE), Planned(run, [], evaluated=True))
        words = [*training.flags, "--output_dir", "x"]
        if need.task == "pictures":
            assert parse_settings(words).method.method == need.method
            continue
        line = GENERATION if training.script.name == "train_nlg_reslora.py" else CLASSIFICATION
        settings = line.parse([*(word for word in words if word not in ("--bf16", here)), here])
        assert (settings.method.method, settings.data.task) == (need.method, need.task)
        assert settings.method.rank == (need.rank or 4) and settings.evaluation.evaluate == "all"
        assert need.pre_num in (None, settings.method.pre_num)


def test_official_is_what_the_published_scripts_say():
    preset = load_preset("official")
    ms, glue = preset.flags(Need("svamp", "reslora_ms")), preset.flags(Need("rte", "reslora_is"))
    assert preset.rates(Need("svamp", "lora")) == [1e-4] and preset.rates(Need("rte", "lora")) == [3e-4]
    assert (ms["warmup_steps"], ms["max_length"], ms["alpha_from"], ms["first_block"]) == (0.06, 500, "inputs", "self")
    assert (glue["lora_alpha"], glue["num_train_epochs"], glue["warmup_steps"]) == (16, 20, 0.6)
    pictures = preset.flags(Need("pictures", "lora"))
    assert (pictures["resolution"], pictures["num_train_epochs"]) == (768, 10)


def test_paper_is_appendix_c():
    preset = load_preset("paper")
    flags, larger = preset.flags(Need("svamp", "reslora_bs")), preset.flags(Need("svamp", "lora", rank=16))
    assert (flags["rank"], flags["lora_alpha"], flags["first_block"], flags["pre_num"]) == (4, 8, "none", 4)
    assert (larger["rank"], larger["lora_alpha"]) == (16, 32)
    assert len(preset.rates(Need("svamp", "lora"))) > 1 and flags["validation_samples"] > 0
    assert flags["measure_epochs"] == [5, 10, 20, 30, 40] and flags["num_train_epochs"] == 40
    assert preset.flags(Need("metamathqa", "lora"))["max_train_samples"] == 40000


def write(tmp_path, **changes):
    values = yaml.safe_load((FOLDER / "smoke.yaml").read_text())
    for path, value in changes.items():
        *folders, last = path.split("__")
        table = values
        for folder in folders:
            table = table[folder]
        table[last] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": ["a"]}, "give whole numbers"),
        ({"families": 3}, "3 for families. It must be a dict"),
        ({"speed": 1}, "speed, which is no part"),
        ({"families__nlg__model": 7}, r"7 for families\.nlg\.model. It must be a str"),
        ({"families__nlg__rates": {"lora": [1e-3]}}, "there is none for `any` method"),
        ({"families__nlg__rates": {"any": [-1]}}, r"rates\.any is \[-1\]. Give a list of numbers above 0"),
        ({"families__nlg__flags": {"seed": 3}}, "flags has seed, which each run sets"),
        ({"tasks__svmp": {}}, r"'svmp' in tasks\. Known are gsm8k, svamp"),
        ({"tasks__svamp": 3}, r"3 for tasks\.svamp\. It must be a dict"),
        ({"tasks__svamp": {"methods": ["dora"]}}, r"'dora' in tasks\.svamp\.methods"),
        ({"ranks": {16: 32}}, r"32 for ranks\.16\. It must be a dict"),
        ({"families__nlg__shape": {"layers": 2}}, r"None for families\.nlg\.shape\.parameters"),
        ({"families__nlg__flags": {"max_steps": "many"}}, r"'many' for families\.nlg\.flags\.max_steps"),
        ({"families__nlg__rates": {"any": [1e-3], "lara": [1]}}, r"'lara' in families\.nlg\.rates"),
        ({"tasks__svamp": {"rows": "many"}}, r"'many' for tasks\.svamp\.rows. It must be a int"),
    ],
)
def test_a_damaged_preset_is_refused_with_the_part_that_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_preset(write(tmp_path, **changes))


def test_what_is_no_preset_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no preset 'large'\. Give one of official, paper, small, smoke, or a YAML"):
        load_preset("large")
    for text, said in (("[1, 2]", "holds no table"), ("a: [", "is no YAML")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=said):
            load_preset(str(tmp_path / "bad.yaml"))


def test_changes_count_over_the_presets_own():
    changes = ["svamp.max_steps=7", "nlg.model=other/model", "seeds=1,2", "nlg.bf16=true"]
    preset = load_preset("smoke", changes)
    flags = preset.flags(Need("svamp", "lora"))
    assert flags["max_steps"] == 7 and flags["bf16"] is True and preset.seeds == [1, 2]
    assert preset.family("svamp")["model"] == "other/model"
    with pytest.raises(ValueError, match=r"--set sst2\.max_steps=1: give PART.FLAG=VALUE"):
        load_preset("smoke", ["sst2.max_steps=1"])
    with pytest.raises(ValueError, match="--set svamp"):
        load_preset("smoke", ["svamp"])


def test_the_key_is_of_all_that_matters_and_of_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "rows.jsonl").write_text("1")
    (tmp_path / "b" / "rows.jsonl").write_text("1")
    files = {"train_file": "rows.jsonl", "test_file": "rows.jsonl"}
    preset = load_preset(write(tmp_path, tasks__svamp=files))
    need, place = Need("svamp", "lora"), Place(tmp_path, tmp_path / "a")
    key = make_run(preset, place, need, 1e-3, 1).key
    assert make_run(preset, Place(tmp_path / "x", tmp_path / "b"), need, 1e-3, 1).key == key
    others = [
        make_run(preset, place, need, 2e-3, 1),
        make_run(preset, place, need, 1e-3, 2),
        make_run(preset, place, Need("svamp", "lora", rank=16), 1e-3, 1),
        make_run(load_preset(write(tmp_path, tasks__svamp={**files, "flags": {"max_steps": 9}})), place, need, 1e-3, 1),
    ]
    (tmp_path / "a" / "rows.jsonl").write_text("22")
    others.append(make_run(preset, place, need, 1e-3, 1))
    assert len({key, *(one.key for one in others)}) == 6


@pytest.mark.parametrize(("task", "part"), [("svamp", "nlg"), ("rte", "nlu"), ("pictures", "pictures")])
def test_several_rates_need_rows_that_choose_one(tmp_path, task, part):
    """Without them the sweep would never end."""
    rates = {"any": [1e-3, 2e-3]}
    values = yaml.safe_load((FOLDER / "small.yaml").read_text(encoding="utf-8"))
    values["tasks"][task]["rates"] = rates
    if task == "pictures":
        values["families"][part]["flags"]["validation_samples"] = 0  # a style keeps some unless told
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    items = [item for item in all_items().values() if any(need.task == task for need in item.needs)]
    with pytest.raises(ValueError, match=rf"has 2 rates for \w+ on {task}, and keeps no rows to choose one by"):
        make_plan(items, load_preset(str(tmp_path / "mine.yaml")), PLACE)
    make_plan(items, load_preset(str(tmp_path / "mine.yaml"), [f"{task}.validation_samples=8"]), PLACE)
