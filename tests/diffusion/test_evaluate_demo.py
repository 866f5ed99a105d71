"""The demo's figures and sheet: on pictures made here, on a run of a tiny model, and what is refused."""

import pytest
from PIL import Image

from reslora_sd.diffusion import evaluate_demo
from reslora_sd.runs.names import STYLES

TINY = (
    *("--dataset_name", STYLES[0], "--max_train_steps", 2, "--validation_samples", 0, "--validation_prompts", "bee"),
    *("--validation_inference_steps", 1, "--no_report", "--resolution", 16),
    *("--learning_rate", 0.3),
)


def test_the_table_gives_distances_as_shares_of_the_first():
    figures = {"base": evaluate_demo.Figures(2.0, 0.5), "lora": evaluate_demo.Figures(0.5, 0.975)}
    head, base, lora = evaluate_demo.table(figures).splitlines()
    assert head.split() == ["distance", "of", "the", "base's", "percentile"]
    assert base.split() == ["base", "2.000", "1.000", "0.5000"] and lora.split() == ["lora", "0.500", "0.250", "0.9750"]


def test_the_sheet_has_a_row_a_model_with_the_wanted_last_and_a_column_a_name(tmp_path):
    red, green, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
    pictures = {"base": [red] * 9, "reslora_is": [green] * 9}
    evaluate_demo.write_sheet(pictures, [blue] * 9, [f"name {number}" for number in range(9)], tmp_path / "new/a.png")
    with Image.open(tmp_path / "new/a.png") as sheet:
        pixels = list(sheet.convert("RGB").getdata())
        assert pixels.count((255, 0, 0)) == pixels.count((0, 255, 0)) == 8 * 16 * 16, "eight names, at twice their size"
        across = sheet.width - 20
        column = [sheet.getpixel((across, y)) for y in range(sheet.height)]
        assert column.index((255, 0, 0)) < column.index((0, 255, 0)) < column.index((0, 0, 255))


def test_every_run_is_drawn_by_its_exported_lora_and_compared(train, tmp_path, capsys):
    runs = [train(*TINY, "--method", method, data=None, output=method) for method in ("lora", "reslora_is")]
    capsys.readouterr()
    evaluate_demo.main(runs, 2, tmp_path / "sheet.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"2 names that no run was trained on, in the style {STYLES[0]}:"
    rows = [line.split() for line in lines[2:5]]
    assert [row[0] for row in rows] == ["base", "lora", "reslora_is"]
    pictures, _ = evaluate_demo.draw_all(evaluate_demo.open_runs(runs)[0], ["bee"])
    assert len({picture.tobytes() for [picture] in pictures.values()}) == 3, "each model draws pictures of its own"
    assert lines[5].endswith(str(tmp_path / "sheet.png")) and (tmp_path / "sheet.png").is_file()


def test_other_data_have_no_wanted_drawings(train):
    run = train("--max_train_steps", 1, "--validation_prompts", "bee", "--validation_inference_steps", 1, "--no_report")
    with pytest.raises(ValueError, match=r"no wanted drawings are known. Train with --dataset_name and one of gold"):
        evaluate_demo.open_runs([run])
    with pytest.raises(ValueError, match="nowhere is no finished run of the picture script"):
        evaluate_demo.open_runs([run.parent / "nowhere"])


def test_at_least_one_name_is_drawn(capsys):
    with pytest.raises(SystemExit):
        evaluate_demo.parse(["runs/lora", "--names", "0"])
    assert "--names is 0. It must be 1 or more." in capsys.readouterr().err
