"""The comparison of methods on pictures: what it launches and reads, on runs of a few steps."""

import json
from pathlib import Path

import pytest

from reslora_sd.diffusion.arguments import parse_settings
from tests.forked import launch
from train_scripts import compare_methods


def test_a_sweep_runs_once_and_continues(tmp_path, picture_folder, tiny_pipeline_folder, capsys, monkeypatch):
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", launch)
    argv = [
        "--output_dir",
        str(tmp_path / "sweep"),
        "--methods",
        "reslora_ms",
        "--learning_rates",
        "0.01",
        "--seeds",
        "1",
        "--max_train_steps",
        "2",
        "--pretrained_model_name_or_path",
        str(tiny_pipeline_folder),
        "--train_data_dir",
        str(picture_folder),
        "--train_batch_size",
        "2",
        "--rank",
        "4",
        "--calibration_samples",
        "8",
        "--validation_samples",
        "1",
        "--test_samples",
        "3",
        "--validation_prompts",
        "colour 1",
    ]
    compare_methods.main(*compare_methods.parse(argv))
    result = json.loads((tmp_path / "sweep" / "compare.json").read_text())
    (run,) = result["best"]
    assert set(run["results"]) == {
        "base",
        "unmerged",
        "merged: none",
        "merged: input",
        "merged: weights",
        "merged: least_squares",
    }
    assert run["results"]["merged: none"]["drift"] > run["results"]["merged: least_squares"]["drift"] > 0
    assert run["validation_loss"] > 0 and run["trainable_parameters"] > 0 and run["seconds_per_step"] > 0
    assert result["rates_chosen_by"] == "1 pictures kept out of training"
    assert result["reported_on"] == "3 other pictures kept out of training, the same for every seed"
    monkeypatch.setattr(
        "reslora_sd.runs.sweep.launch", lambda *_, **__: pytest.fail("a run that is done was run again")
    )
    compare_methods.main(*compare_methods.parse(argv))
    assert "| reslora_ms | 0.01 | unmerged |" in capsys.readouterr().out


def test_a_run_that_lost_a_file_is_made_again(tmp_path):
    files: dict[str, dict[str, object]] = {
        "merge_report.json": {"end_to_end": {"loss": {"base": 3, "unmerged": 2, "exact": 2}, "drift": {"exact": 0}}},
        "run.json": {"trainable_parameters": 8},
        "log.jsonl": {"step": 1, "seconds": 0.5, "memory": 2},
    }
    files["merge_report.json"] |= {"validation": {"loss": 1}, "test": {"pictures": 2}}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content) + "\n")
    assert compare_methods.is_done(tmp_path) and compare_methods.read(tmp_path)["seconds_per_step"] == 0.5
    for name, content in files.items():
        (tmp_path / name).write_text("")
        with pytest.raises(ValueError, match=f"{name} .*Remove it, and start the same command again"):
            compare_methods.read(tmp_path)
        (tmp_path / name).unlink()
        assert not compare_methods.is_done(tmp_path)
        (tmp_path / name).write_text(json.dumps(content) + "\n")


@pytest.mark.slow
def test_a_failing_run_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="There is no"):
        compare_methods.main(
            *compare_methods.parse(
                [
                    *(
                        "--output_dir",
                        str(tmp_path),
                        "--methods",
                        "lora",
                        "--train_data_dir",
                        str(tmp_path / "nowhere"),
                    ),
                    *("--validation_samples", "2", "--test_samples", "2"),
                ]
            )
        )


@pytest.mark.parametrize("given", [(), ("--validation_samples", "2"), ("--test_samples", "2")])
def test_own_pictures_are_not_compared_by_their_training_loss(given, tmp_path, monkeypatch):
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", lambda *_, **__: pytest.fail("trained"))
    argv = ["--output_dir", str(tmp_path / "sweep"), "--train_data_dir", str(tmp_path), *given]
    with pytest.raises(ValueError, match=r"_samples is left out\. Of your own pictures, say how many are kept out"):
        compare_methods.main(*compare_methods.parse(argv))
    assert not (tmp_path / "sweep").exists()


def test_runs_keep_pictures_out_to_choose_by_and_others_to_report_on():
    settings, more = compare_methods.parse(["--rank", "4"])
    settings = compare_methods.with_pictures_kept_out(settings, own_data=False)
    assert (settings.validation_samples, settings.test_samples) == (30, 30)
    for draws in (True, False):
        run = compare_methods.protocol_of(settings, more, draws).training("lora", 1e-3, 5, True)
        launched = parse_settings([*run.flags, *([] if draws else ["--validation_prompt", "none"])])
        kept = launched.validation
        assert (kept.validation_samples, kept.test_samples, launched.output.report) == (30, 30, True)
        assert ("--validation_steps" in run.flags) == draws and launched.method.rank == 4


@pytest.mark.parametrize("words", [["--report"], ["--no_report"], ["--seed", "1"], ["--num_train_epochs", "2"]])
def test_flags_that_every_run_gets_are_refused(words):
    with pytest.raises(ValueError, match="is set by the comparison"):
        compare_methods.parse(words)
    with pytest.raises(ValueError, match="--test_samples is 0"):
        compare_methods.parse(["--test_samples", "0"])


def test_a_config_file_holds_flags_of_the_sweep_and_of_the_training(tmp_path):
    (tmp_path / "sweep.json").write_text('{"seeds": [1], "max_train_steps": 5, "rank": 8, "center_crop": true}')
    settings, more = compare_methods.parse(["--config", str(tmp_path / "sweep.json"), "--seeds", "2", "3"])
    assert (settings.seeds, settings.max_train_steps, settings.folder) == ([2, 3], 5, Path("runs/compare"))
    assert more == ["--rank=8", "--center_crop=true"]
    with pytest.raises(ValueError, match="--max_train_steps is 0"):
        compare_methods.parse(["--max_train_steps", "0"])
