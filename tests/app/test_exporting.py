"""What an exported comparison holds, and as which files it comes."""

import io
import json
import re
import zipfile

import pytest
import yaml

from app import exporting
from app.__main__ import main
from app.exporting import comparison, space_zip
from app.synthetic import make_run
from reslora_sd.runs.reader import read_run


def data_of(page):
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.fixture
def runs(made_up_pair):
    return {path.name: read_run(path) for path in made_up_pair}


def test_it_holds_each_picture_of_each_prompt_and_step_once(runs):
    data = data_of(comparison(runs))
    assert data["title"] == "lora and reslora_is" and data["runs"] == ["lora", "reslora_is"]
    assert [one["steps"] for one in data["series"]] == [[5, 10, 15, 20]] * 2
    assert [len(one["pictures"]) for one in data["series"]] == [2, 2]
    # the made-up pictures of both runs are the same, and stored once
    assert len(data["images"]) == len(set(data["images"])) == 8
    assert all(image.startswith("data:image/webp;base64,") for image in data["images"])


def test_a_picture_that_is_missing_or_damaged_is_left_empty(runs, made_up_pair):
    (made_up_pair[0] / "validation" / "step-000020" / "unmerged-00-42.png").write_bytes(b"no picture")
    data = data_of(comparison(runs))
    assert data["series"][0]["pictures"][0][3] is None and data["series"][0]["pictures"][1][3] is not None


def test_many_steps_become_few_and_too_much_is_told(tmp_path, monkeypatch):
    run = read_run(make_run(tmp_path / "long", steps=60, side=8))
    steps = data_of(comparison({"long": run}))["series"][0]["steps"]
    assert len(steps) == exporting.MOST_STEPS and (steps[0], steps[-1]) == (1, 60)
    monkeypatch.setattr(exporting, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="Choose fewer runs"):
        comparison({"long": run})
    with pytest.raises(ValueError, match="0 runs are chosen"):
        comparison({})
    with pytest.raises(ValueError, match="no picture can be exported"):
        comparison({"long": run}, variant="exact")


def test_a_space_is_a_static_one_whatever_its_title(runs):
    title = 'a "quoted": title\n- with\\ things'
    with zipfile.ZipFile(io.BytesIO(space_zip(comparison(runs, title), title))) as archive:
        assert archive.namelist() == ["README.md", "index.html"]
        _, front, text = archive.read("README.md").decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert (about["sdk"], about["app_file"], about["title"]) == ("static", "index.html", title)
    assert "hf upload" in text


def test_the_command_writes_a_file_or_a_space_and_replaces_nothing(made_up_pair, tmp_path, capsys):
    file, space = tmp_path / "out" / "one.html", tmp_path / "space"
    for target in (file, space):
        main([*map(str, made_up_pair), "--export", str(target)])
        assert f"{target}: LoRA and ResLoRA (input)" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="which is there already"):
            main([*map(str, made_up_pair), "--export", str(target)])
    assert data_of(file.read_text()) == data_of((space / "index.html").read_text())
    assert (space / "README.md").is_file()
