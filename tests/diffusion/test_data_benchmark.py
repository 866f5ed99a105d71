"""The benchmark of the data's way: its two forms, small."""

import json

import pytest

from reslora_sd.diffusion import data_benchmark


def test_it_says_for_every_way_how_fast_pictures_come_and_what_waits(capsys, monkeypatch, tiny_pipeline_folder):
    monkeypatch.setattr(data_benchmark, "_WITH_A_DEVICE", 2)
    size = ["--pictures", "4", "--width", "40", "--height", "30", "--resolution", "16", "--workers", "1"]
    data_benchmark.main([*size, "--step_seconds", "0", "--base_model", str(tiny_pipeline_folder)])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:30].strip() for line in lines[1:]] == list(data_benchmark.WAYS)
    assert all(float(line[30:].split()[1]) > 0 for line in lines[1:])


def test_what_comes_before_the_first_step_is_told_by_stages(capsys, tmp_path, tiny_pipeline_folder):
    data = data_benchmark.make_pictures(tmp_path / "many", 5, (32, 16))
    words = ["--of", str(data), "--cache", str(tmp_path / "cache"), "--base_model", str(tiny_pipeline_folder)]
    data_benchmark.main(words)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(told) == [
        "model loaded",
        "data set read",
        "sizes read, captions and pictures encoded",
        "first batch",
        "opened",
        "opened by then",
    ]
    assert all(seconds > 0 and memory > 0 for seconds, _, memory in list(told.values())[:4])
    assert sum(told["opened"].values()) == 10, "five pictures and their texts"


def test_more_pictures_than_are_checked_at_first_are_opened_once_before_the_first_batch(
    capsys, tmp_path, tiny_pipeline_folder, monkeypatch
):
    for module in ("captioned", "encoded"):
        monkeypatch.setattr(f"reslora_sd.diffusion.{module}.CHECKED_UP_TO", 2)
    data = data_benchmark.make_pictures(tmp_path / "many", 9, (32, 16))
    monkeypatch.setattr(data_benchmark, "_IN_A_SHARD", 4)
    assert [file.name for file in sorted(data_benchmark.make_shards(tmp_path / "tar", data).iterdir())] == [
        f"0000{number}.tar" for number in range(3)
    ]
    words = ["--of", str(data), "--cache", str(tmp_path / "cache"), "--base_model", str(tiny_pipeline_folder)]
    data_benchmark.main(words)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["opened"] == {"1": 18}, "each picture for its header, and each text"
    assert told["opened by then"]["1"] == 14, "of a batch, four were opened again"


def test_tar_files_are_of_many_pictures_and_counts_are_sorted_as_numbers(capsys):
    with pytest.raises(SystemExit):
        data_benchmark.main(["--tar"])
    assert "--tar is for the pictures of --many" in capsys.readouterr().err
    assert list(data_benchmark._lines("x", {"opened": {"10": 1, "2": 3}}))[1].endswith(" 3 files 2 x, 1 files 10 x")
