"""The table and the plot of a comparison."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from reslora_sd.training.comparison_report import Choice, over_seeds, plot, summary


def result(method, rate, loss, accuracy=0.5):
    return {
        "method": method,
        "learning_rate": rate,
        "seed": 1,
        "diverged": loss is None,
        "validation_loss": loss,
        "seconds_per_step": 1.0,
        "peak_memory_mb": 100.0,
        "trainable_parameters": 1234,
        "results": {"unmerged": {"accuracy": accuracy}, "merged: none": {"accuracy": 0.25}},
    }


def test_mean_and_deviation_by_hand():
    mean, deviation = over_seeds([1.0, 3.0])
    assert mean == 2.0 and deviation == pytest.approx(2**0.5)
    assert over_seeds([0.5]) == (0.5, 0.0)


def test_the_table_has_means_and_deviations_and_marks_a_rate_at_the_end():
    final = [result("lora", 2e-3, 0.2, 0.5), result("lora", 2e-3, 0.4, 0.7)]
    text = summary({"lora": Choice(2e-3, (1e-3, 2e-3), {})}, final)
    assert "| lora | 0.002 * | unmerged | 0.6000 ± 0.1414 | 0.3000 ± 0.1414 | 1.00 | 100 | 1,234 |" in text
    assert "| merged: none | 0.2500 ± 0.0000 |" in text
    assert "0.002 |" in summary({"lora": Choice(2e-3, (1e-3, 2e-3, 5e-3), {})}, final)


def test_the_plot_has_a_line_for_each_method_and_crosses_for_seeds(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig

    def remember(figure, path):
        drawn.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", remember)
    swept = [result("lora", 2e-3, 0.2), result("full", 1e-3, 0.4), result("lora", 1e-3, 0.3), result("full", 9.0, None)]
    plot(swept, [result("lora", 2e-3, 0.21), result("full", 1e-3, None)], tmp_path / "sweep.png", "svamp")
    axes = drawn[0].axes[0]
    lines = [(list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) for line in axes.lines]
    assert lines == [([1e-3, 2e-3], [0.3, 0.2], "o"), ([2e-3], [0.21], "x"), ([1e-3], [0.4], "o")]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["lora", "full"]
    assert (axes.get_title(), axes.get_xscale()) == ("svamp", "log")
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.size == (840, 540)
