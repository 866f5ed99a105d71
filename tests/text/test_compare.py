"""The comparison of text methods: its flags, the rows that choose and are reported on, a sweep that can be stopped."""

import json
from pathlib import Path

import pytest

from reslora_sd.runs.sweep import claim_folder
from reslora_sd.text.apart import rows_apart
from tests.forked import launch
from tests.texts import save_small_llama, write_svamp
from train_scripts import compare_text_methods


def test_a_method_can_have_rates_of_its_own():
    flags = ["--methods", "lora", "adalora", "--learning_rates", "1e-3", "2e-3", "--rates_for", "adalora", "5e-3"]
    assert compare_text_methods.parse(flags)[0].rates == {"lora": [1e-3, 2e-3], "adalora": [5e-3]}
    for wrong in (["loha", "1e-3"], ["lora"], ["lora", "high"]):
        with pytest.raises(ValueError, match="one of lora, adalora, and then numbers"):
            compare_text_methods.parse([*flags, "--rates_for", *wrong])


def test_a_sweep_evaluates_the_best_and_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", launch)
    train, test = write_svamp(tmp_path / "train.jsonl", 16), write_svamp(tmp_path / "test.jsonl", 3, first=50)
    argv = [
        "--output_dir",
        str(tmp_path / "sweep"),
        "--task",
        "svamp",
        "--methods",
        "lora",
        "--learning_rates",
        "1e-3",
        "1e-2",
        "--seeds",
        "1",
        "--max_steps",
        "2",
        "--validation_samples",
        "4",
        "--model",
        str(save_small_llama(tmp_path / "llama")),
        "--train_file",
        str(train),
        "--test_file",
        str(test),
        "--per_device_train_batch_size",
        "4",
        "--use_cpu",
    ]
    compare_text_methods.main(*compare_text_methods.parse(argv))
    found = json.loads((tmp_path / "sweep" / "compare.json").read_text())
    assert [one["learning_rate"] for one in found["sweep"]] == [1e-3, 1e-2]
    assert found["best"][0]["learning_rate"] == 1e-2 and "accuracy" in found["best"][0]["results"]["unmerged"]
    assert (tmp_path / "sweep" / "compare.png").is_file()
    assert found["rates_chosen_by"] == f"4 rows kept apart from {train}"
    assert found["reported_on"] == f"3 test rows of {test}"
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", lambda *_, **__: pytest.fail("run again"))
    compare_text_methods.main(*compare_text_methods.parse(argv))
    assert capsys.readouterr().out.count("| lora | 0.01 * |") == 8


def test_runs_of_other_settings_are_not_taken_for_this_sweeps(tmp_path):
    claim_folder(tmp_path / "sweep", {"task": "svamp", "flags": ["--r", "4"]}, "results.json")
    claim_folder(tmp_path / "sweep", {"task": "rte", "flags": []}, "results.json")  # no run is done
    (tmp_path / "sweep" / "lora").mkdir()
    (tmp_path / "sweep" / "lora" / "results.json").touch()
    claim_folder(tmp_path / "sweep", {"task": "rte", "flags": []}, "results.json")
    with pytest.raises(ValueError, match="runs with task rte, and not mrpc"):
        claim_folder(tmp_path / "sweep", {"task": "mrpc", "flags": []}, "results.json")
    with pytest.raises(ValueError, match=r"with flags \[\], and not \['--r', '8'\]"):
        claim_folder(tmp_path / "sweep", {"task": "rte", "flags": ["--r", "8"]}, "results.json")


def test_a_config_file_holds_flags_of_the_sweep_and_of_the_training(tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        "task: rte\nmethods: [lora, full]\nrates_for: [[full, 1e-4, 2e-4]]\nsave_fused: true\nmodel: somewhere\n"
    )
    words = ["--config", str(tmp_path / "sweep.yaml"), "--rates_for", "lora", "0.5", "--rank", "2"]
    settings, more = compare_text_methods.parse(words)
    assert settings.rates == {"lora": [0.5], "full": [1e-4, 2e-4]}
    assert settings.folder == Path("runs/compare-rte")
    assert more == ["--save_fused=true", "--model=somewhere", "--rank", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sudoku"], "--task is 'sudoku'.*svamp.*rte"),
        (["--max_steps", "0"], "--max_steps is 0"),
        (["--validation_samples", "-1"], "--validation_samples is -1"),
        (["--validation_samples", "0"], "--validation_samples is 0. It must be 1 or more"),
        (["--seed", "3"], "--seed is set by the comparison"),
        (["--num_train_epochs", "3"], "--num_train_epochs is set by the comparison.* Give --max_steps"),
        (["--rates_for", "lora", "0"], "--rates_for has 0"),
    ],
)
def test_a_wrong_value_is_told_before_anything_is_trained(words, message):
    with pytest.raises(ValueError, match=message):
        compare_text_methods.parse(words)


def test_figures_of_no_test_row_are_refused(capsys):
    with pytest.raises(SystemExit):
        compare_text_methods.parse(["--evaluate", "none"])
    assert "--evaluate: invalid choice: 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("reported", [True, False])
def test_only_reported_runs_look_at_test_rows(tmp_path, reported):
    settings, more = compare_text_methods.parse(["--output_dir", str(tmp_path), "--evaluate", "loss", "--r", "2"])
    flags = list(compare_text_methods.training(settings, more, "lora", 1e-3, 5, reported).flags)
    assert flags[flags.index("--evaluate") + 1] == ("loss" if reported else "none")


def compare_files(train, test, *more):
    argv = ["--output_dir", str(train.parent / "sweep"), "--train_file", str(train), "--validation_samples", "4", *more]
    compare_text_methods.main(*compare_text_methods.parse([*argv, "--test_file", str(test)]))


def test_rows_that_would_choose_and_be_reported_on_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", lambda *_, **__: pytest.fail("trained"))
    train = write_svamp(tmp_path / "train.jsonl", 16)
    copy = tmp_path / "test.jsonl"
    copy.write_text(train.read_text())
    for test in (train, copy):
        with pytest.raises(ValueError, match="All 4 training rows that would choose the learning rates are test rows"):
            compare_files(train, test)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        compare_files(train, tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="--validation_samples is 16, but there are 16"):
        compare_files(train, copy, "--validation_samples", "16")
    assert not (tmp_path / "sweep").exists()


def test_test_rows_that_chose_are_counted(tmp_path):
    train = write_svamp(tmp_path / "train.jsonl", 6)
    both = write_svamp(tmp_path / "test.jsonl", 6, first=3)  # rows 3 to 5 are in the training rows, too
    found = [rows_apart("svamp", str(train), [str(both)], 3, [seed]) for seed in (1, 2)]
    assert found[0] == found[1] and (found[0].kept, found[0].tests) == (3, 6) and 0 < found[0].shared < 3
    settings, more = compare_text_methods.parse(
        ["--train_file", str(train), "--test_file", str(both), "--validation_samples", "3"]
    )
    (note,) = compare_text_methods.protocol_of(settings, more).notes
    assert note == f"{found[0].shared} of the 6 test rows have the text of a row that chose."


def test_rows_of_glue_and_of_a_task_tested_on_another_are_told_apart(tmp_path):
    pairs = [{"sentence1": f"a {i}", "sentence2": "b", "label": 1} for i in range(8)]
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("\n".join(map(json.dumps, pairs)))
    test.write_text(json.dumps({**pairs[0], "sentence2": "c"}))
    assert rows_apart("rte", str(train), [str(test), None], 2, [1]).shared == 0
    with pytest.raises(ValueError, match="All 2 training rows"):
        rows_apart("rte", str(train), [str(train), None], 2, [1])
    train.write_text("\n".join(json.dumps({"query": f"{i}?", "response": "1"}) for i in range(8)))
    test.write_text(json.dumps({"question": "7?", "answer": "#### 1"}))
    assert rows_apart("metamathqa", str(train), [str(test), None], 7, [1]).tests == 1
