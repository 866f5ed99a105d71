"""The sweep over methods and learning rates, on runs of a few steps."""

import json
from pathlib import Path

import pytest

from train_scripts import compare_methods


def test_each_method_is_judged_at_its_own_best_rate():
    def runs(loss):
        return [{"base": 1.0, "unmerged": loss, "exported": loss + 0.1, "drift": 0.02}]

    results = {"lora": {"0.001": runs(0.5), "0.002": runs(0.4)}, "reslora_is": {"0.001": runs(0.3), "0.002": runs(0.6)}}
    lora, reslora = compare_methods.table(results).splitlines()[1:]
    assert "0.4000 +-0.0000    0.5000     2.00 %" in lora and "0.3000 +-0.0000    0.4000" in reslora


def test_a_sweep_runs_once_and_continues(tmp_path, picture_folder, tiny_pipeline_folder, capsys, monkeypatch):
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
        "2",
        "--validation_prompts",
        "colour 1",
    ]
    compare_methods.main(*compare_methods.parse(argv))
    result = json.loads((tmp_path / "sweep" / "compare.json").read_text())
    assert result["reslora_ms"]["0.01"][0]["exported"] > 0
    monkeypatch.setattr(
        "reslora_sd.runs.sweep.subprocess.run", lambda *_, **__: pytest.fail("a run that is done was run again")
    )
    compare_methods.main(*compare_methods.parse(argv))
    assert "reslora_ms" in capsys.readouterr().out


def test_a_failing_run_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="There is no"):
        compare_methods.main(
            *compare_methods.parse(
                ["--output_dir", str(tmp_path), "--methods", "lora", "--train_data_dir", str(tmp_path / "nowhere")]
            )
        )


def test_a_config_file_holds_flags_of_the_sweep_and_of_the_training(tmp_path):
    (tmp_path / "sweep.json").write_text('{"seeds": [1], "max_train_steps": 5, "rank": 8, "center_crop": true}')
    settings, more = compare_methods.parse(["--config", str(tmp_path / "sweep.json"), "--seeds", "2", "3"])
    assert (settings.seeds, settings.max_train_steps, settings.folder) == ([2, 3], 5, Path("runs/compare"))
    assert more == ["--rank=8", "--center_crop=true"]
    with pytest.raises(ValueError, match="--max_train_steps is 0"):
        compare_methods.parse(["--max_train_steps", "0"])
