"""The comparison of text methods: choosing rates, the table, the plot, and a sweep that can be stopped."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from reslora_sd.runs.sweep import claim_folder
from reslora_sd.text.compare import best_rates, plot, summary
from tests.texts import save_small_llama, write_svamp
from train_scripts import compare_text_methods


def result(method, rate, loss, accuracy=0.5):
    return {
        "method": method,
        "learning_rate": rate,
        "validation_loss": loss,
        "seconds_per_step": 1.0,
        "peak_memory_mb": 100.0,
        "trainable_parameters": 1234,
        "results": {"unmerged": {"accuracy": accuracy}, "merged: none": {"accuracy": 0.25}},
    }


def test_each_method_has_its_own_best_rate():
    swept = [result("lora", 1e-3, 0.3), result("lora", 2e-3, 0.2), result("full", 1e-3, 0.1), result("full", 2e-3, 0.4)]
    assert best_rates(swept) == {"lora": 2e-3, "full": 1e-3}
    with pytest.raises(ValueError, match="No run of lora has a loss"):
        best_rates([result("lora", 1e-3, None)])


def test_the_table_has_means_and_deviations_and_marks_a_rate_at_the_end():
    swept = [result("lora", rate, 0.5) for rate in (1e-3, 2e-3)] + [result("full", 5e-3, 0.5)]
    final = [result("lora", 2e-3, 0.2, 0.5), result("lora", 2e-3, 0.4, 0.7)]
    text = summary(swept, final)
    assert "| lora | 0.002 * | unmerged | 0.6000 ± 0.1414 | 0.3000 ± 0.1414 | 1.00 | 100 | 1,234 |" in text
    assert "| merged: none | 0.2500 ± 0.0000 |" in text
    assert "0.002 |" in summary([*swept, result("lora", 5e-3, 0.5)], final)


def test_a_method_can_have_rates_of_its_own():
    flags = ["--methods", "lora", "adalora", "--learning_rates", "1e-3", "2e-3", "--rates_for", "adalora", "5e-3"]
    assert compare_text_methods.parse(flags)[0].rates == {"lora": [1e-3, 2e-3], "adalora": [5e-3]}
    for wrong in (["loha", "1e-3"], ["lora"], ["lora", "high"]):
        with pytest.raises(ValueError, match="one of lora, adalora, and then numbers"):
            compare_text_methods.parse([*flags, "--rates_for", *wrong])


def test_the_plot_has_a_line_for_each_method_and_crosses_for_seeds(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig

    def remember(figure, path):
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", remember)
    swept = [result("lora", 2e-3, 0.2), result("full", 1e-3, 0.4), result("lora", 1e-3, 0.3)]
    plot(swept, [result("lora", 2e-3, 0.21)], tmp_path / "sweep.png", "svamp")
    axes = drawn[0].axes[0]
    lines = [(list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) for line in axes.lines]
    assert lines == [([1e-3, 2e-3], [0.3, 0.2], "o"), ([2e-3], [0.21], "x"), ([1e-3], [0.4], "o")]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["lora", "full"]
    assert (axes.get_title(), axes.get_xscale()) == ("svamp", "log")
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.size == (840, 540)


def test_a_sweep_evaluates_the_best_and_continues(tmp_path, monkeypatch, capsys):
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
    monkeypatch.setattr("reslora_sd.runs.sweep.subprocess.run", lambda *_, **__: pytest.fail("run again"))
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
        (["--rates_for", "lora", "0"], "--rates_for has 0"),
    ],
)
def test_a_wrong_value_is_told_before_anything_is_trained(words, message):
    with pytest.raises(ValueError, match=message):
        compare_text_methods.parse(words)
