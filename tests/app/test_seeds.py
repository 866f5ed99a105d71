"""Curves over seeds: which runs are put together, their band, and a legend that says all of it."""

import json
from typing import Any

import pytest

from app import plots
from app.seeds import MEAN, groups, lines, none_together
from app.synthetic import make_run
from reslora_sd.runs.reader import read_run


def run_of(folder, seed, rate=0.1, off=0.0, method="reslora_is", steps=4):
    path = make_run(folder / f"{method}-{rate}-{seed}-{off}", method, steps=steps, every=steps, prompts=("x",), side=8)
    about = json.loads((path / "run.json").read_text())
    mine = {"seed": seed, "learning_rate": rate, "output_dir": str(path)}
    (path / "run.json").write_text(json.dumps({**about, "arguments": {**about["arguments"], **mine}}))
    rows = [{"step": step, "grad_norm": 1.0, "loss": 1.0 + off} for step in range(1, steps + 1)]
    (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(path)


@pytest.fixture
def runs(tmp_path):
    three = {f"a{seed}": run_of(tmp_path, seed, off=seed / 10) for seed in (1, 2, 3)}
    return {**three, "again": run_of(tmp_path, 3, off=9.0), "lora": run_of(tmp_path, 1, method="lora")}


def test_runs_that_differ_in_seed_and_folder_alone_are_one_line_with_the_number_of_seeds(runs):
    one, again, lora = groups(runs)
    assert one.told() == "ResLoRA (input): mean of 3 seeds (1, 2, 3), band from the lowest to the highest"
    assert (again.told(), lora.told()) == ("again", "lora")  # a seed that is there twice shows nothing about seeds
    assert [group.told() for group in groups(runs, together=False)] == list(runs)


def test_the_line_is_the_mean_and_the_band_goes_from_the_lowest_to_the_highest(runs):
    (line,) = lines(groups(runs)[:1], "loss", 0.5)
    assert (
        line.steps == [1, 2, 3, 4]
        and line.at(2) == (2, line.values[1])
        and line.at(9) == line.at(0) == line.at(None) == (4, line.values[3])
    )
    assert [line.low[0], line.values[0], line.high[0]] == pytest.approx([1.1, 1.2, 1.3])


def test_a_run_that_is_not_as_far_leaves_the_steps_that_all_have(runs, tmp_path):
    short = {**runs, "a4": run_of(tmp_path, 4, steps=2)}
    short["a4"].arguments["max_train_steps"] = 4
    (line,) = lines(groups(short)[:1], "loss", 0.0)
    assert line.steps == [1, 2] and "4 seeds" in line.name


def test_groups_of_one_method_are_told_apart_by_the_settings_that_differ(runs, tmp_path):
    more = {**runs, **{f"b{seed}": run_of(tmp_path, seed, 0.2) for seed in (1, 2)}}
    names = [group.name for group in groups(more)]
    assert names[0] == "ResLoRA (input), learning_rate 0.1" and names[-1] == "ResLoRA (input), learning_rate 0.2"


def test_a_plot_has_a_whole_legend_as_text_and_nothing_of_a_name_is_html(runs):
    evil = "<img src=x onerror=alert(1)>" + "long " * 50
    found = lines(groups({evil: runs["lora"], **runs}, together=False), "grad_norm", 0.0)
    drawn = plots.figure(found, "Gradient norm", "curve-x", 3)
    assert "&lt;img src=x" in drawn and "<img" not in drawn and drawn.count("<li>") == len(found) + 1
    assert "step 3 (chosen)" in drawn and "at step 3" in drawn and 'role="img"' in drawn
    assert "No ticked run has it" in plots.figure([], "Loss", "curve-y")


def told_about(run, arguments: Any = (), **settings):
    run.arguments.update(arguments)
    run.settings.update(settings)
    return run


def test_a_run_without_values_leaves_the_others_their_line_and_is_counted(runs):
    runs["a3"].log.clear()
    (line,) = lines(groups(runs)[:1], "loss", 0.0)
    assert line.name == "ResLoRA (input): mean of 2 of 3 seeds (1, 2), band from the lowest to the highest"
    assert line.high[0] == pytest.approx(1.2)
    runs["a2"].log.clear()
    (line,) = lines(groups(runs)[:1], "loss", 0.0)
    assert line.name == "ResLoRA (input): 1 of 3 seeds (1), the others don't have it"


def test_runs_without_a_step_in_common_have_a_line_each(runs):
    del runs["a1"].log[2:], runs["a2"].log[:2]
    found = lines(groups(runs)[:1], "loss", 0.0)
    assert [line.name for line in found] == [f"ResLoRA (input), seed {seed}" for seed in (1, 2, 3)]
    assert [line.steps for line in found] == [[1, 2], [3, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    "other", [{"train_rows": 1400}, {"test_rows": 50}, {"name": "mnli"}, {"pictures": 9}, {"too_long": 30}]
)
def test_other_data_is_another_experiment_though_its_file_has_the_same_name(tmp_path, other):
    about = {"name": "svamp", "train_rows": 690, "test_rows": 100, "too_long": 10}
    one, two = (told_about(run_of(tmp_path, seed), dataset=about) for seed in (1, 2))
    assert len(groups({"one": one, "two": two})) == 1
    two.settings["dataset"] = {**about, "train_rows": 680, "too_long": 20}  # of other rows, as the seed chose
    assert len(groups({"one": one, "two": two})) == 1
    two.settings["dataset"] = {**about, **other}
    assert len(groups({"one": one, "two": two})) == 2


@pytest.mark.parametrize("arguments", [None, 3, {}])
def test_runs_whose_settings_nobody_knows_stay_by_themselves(tmp_path, arguments):
    one, two = (told_about(run_of(tmp_path, seed), seed=seed) for seed in (1, 2))
    for run in (one, two):
        run.settings["arguments"] = arguments
    found = groups({"one": one, "two": two})
    assert [group.name for group in found] == ["one", "two"]
    assert none_together(found, MEAN) and not none_together(found[:1], MEAN) and not none_together([], MEAN)


def test_names_of_groups_differ_and_are_short(tmp_path):
    long = "/data/" + "x" * 60
    found = {
        f"{end}{seed}": told_about(run_of(tmp_path / f"{end}", seed), {"train_file": f"{long}/{end}", "n" * 300: end})
        for end in ("a", "b")
        for seed in (1, 2)
    }
    first, second = (group.name for group in groups(found))
    assert first != second and first.endswith("x/a") and len(first) < 300


def test_groups_that_differ_in_what_is_not_named_get_numbers(tmp_path):
    settings = ((0, 0, 0, 0), (0, 0, 0, 1), (1, 1, 1, 1))
    found = {
        f"{place} {seed}": told_about(run_of(tmp_path / f"{place}", seed), zip("abcd", values, strict=True))
        for place, values in enumerate(settings)
        for seed in (1, 2)
    }
    names = [group.name for group in groups(found)]
    assert names[1] == f"{names[0]} 2" and len(set(names)) == 3
