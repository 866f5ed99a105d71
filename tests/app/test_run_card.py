"""What a card says of a run, and its downloads."""

import io
import json
import shlex
import zipfile

import pytest
from diffusers import StableDiffusionPipeline
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app import run_card
from app.downloads import address, routes
from app.keeping import Kept
from app.library import Library
from app.tabs.card_html import card, data_address, settings_table
from reslora_sd import PlainLoRA
from reslora_sd.diffusion.arguments import parse_settings, to_arguments
from reslora_sd.runs.reader import read_run


@pytest.fixture(scope="module")
def library(real_runs):
    return Library(list(real_runs.values()))


@pytest.fixture(scope="module")
def client(library, tmp_path_factory):
    app = FastAPI()
    app.include_router(routes(library, tmp_path_factory.mktemp("downloads")))
    return TestClient(app)


def test_the_command_and_the_settings_file_are_those_that_made_the_run(real_runs, tmp_path):
    for path in real_runs.values():
        run = read_run(path)
        words = shlex.split(run_card.command(run))
        assert words[:2] == ["python", "train_scripts/train_text_to_image_reslora.py"]
        assert to_arguments(parse_settings(words[2:])) == run.arguments
        assert "--lora_alpha" not in words and "--max_train_steps=4" in words  # what differs from the defaults alone
        file = tmp_path / "settings.json"
        file.write_text(run_card.settings_file(run))
        assert to_arguments(parse_settings(["--config", str(file)])) == run.arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"validation_prompts": ["--push_to_hub"]}, "would take for something else"),
        ({"validation_prompts": ["/etc/secret.txt"]}, "would take for something else"),
        ({"made_up": 1}, "no flag of this script"),
        ({"rank": "many"}, "rank"),
        ({}, "holds no settings"),
        ({"task": "gsm8k"}, "a text run"),
    ],
)
def test_no_command_is_made_of_a_run_json_that_would_do_something_else(made_up, arguments, said):
    (made_up / "run.json").write_text(json.dumps({"method": "lora", "arguments": arguments}))
    with pytest.raises(ValueError, match=said):
        run_card.command(read_run(made_up))
    assert said in card("lora", read_run(made_up), Kept())


def test_each_download_loads_where_it_is_for_and_is_called_as_the_run(client, library, real_runs, tmp_path):
    want = PlainLoRA.load(real_runs["reslora_is"]).blocks
    for form, ending in (("diffusers", ".safetensors"), ("kohya", "-kohya.safetensors"), ("peft", "-peft.zip")):
        answer = client.get(address("reslora_is", form))
        assert (
            answer.status_code == 200 and f'filename="ResLoRA-input{ending}"' in answer.headers["content-disposition"]
        )
        place = tmp_path / form / f"lora{ending}"
        place.parent.mkdir()
        if form == "peft":
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                archive.extractall(place)
        else:
            place.write_bytes(answer.content)
        found = PlainLoRA.load(place).blocks
        assert found.keys() == want.keys()
        assert all((found[name].delta_weight() - want[name].delta_weight()).abs().max() < 1e-5 for name in want)


@pytest.mark.slow  # test_each_download_loads_where_it_is_for reads the same file
def test_the_three_lines_load_the_download(real_runs, monkeypatch):
    monkeypatch.chdir(real_runs["lora"])
    lines = run_card.code(read_run(real_runs["lora"]))
    assert len(lines.splitlines()) == 3
    names: dict[str, object] = {}
    exec(lines, names)
    assert isinstance(names["pipeline"], StableDiffusionPipeline) and names["pipeline"].get_active_adapters()


def test_settings_are_a_download_and_what_is_not_there_is_told(client, made_up):
    answer = client.get(address("lora", "settings"))
    assert answer.json()["method"] == "lora" and ".json" in answer.headers["content-disposition"]
    for name, what in (("nobody", "diffusers"), ("lora", "../run.json"), ("lora", "pickle"), ("", "kohya")):
        assert client.get(address(name, what)).status_code == 404
    other = FastAPI()
    other.include_router(routes(Library([made_up]), made_up / "cache"))
    answer = TestClient(other).get(address("lora", "diffusers"))
    assert answer.status_code == 404 and "no such LoRA" in answer.text


def test_a_link_out_of_the_run_is_no_download(made_up, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (made_up / "pytorch_lora_weights.safetensors").symlink_to(tmp_path / "secret")
    assert run_card.lora_file(read_run(made_up), "diffusers") is None


def test_a_damaged_lora_is_told(made_up, tmp_path):
    (made_up / "pytorch_lora_weights.safetensors").write_bytes(b"no tensors")
    app = FastAPI()
    app.include_router(routes(Library([made_up]), tmp_path / "cache"))
    answer = TestClient(app).get(address("lora", "peft"))
    assert answer.status_code == 404 and "no complete safetensors file" in answer.text
    assert not list((tmp_path / "cache").glob("*/*"))


def test_measures_say_how_far_pictures_have_moved(made_up, real_runs):
    found = run_card.measures(read_run(made_up))
    assert [one.step for one in found] == [5, 10, 15, 20] and found[0].from_first == 0
    assert found[-1].from_first == pytest.approx(15 / 255 / 3**0.5)  # one channel of three has moved by 15
    assert found[-1].from_real is None and found[-1].loss is not None
    real = run_card.measures(read_run(real_runs["lora"]))[-1]
    assert real.from_first and real.from_real and max(real.from_first, real.from_real) < 1


def test_the_settings_of_two_runs_mark_what_differs(real_runs):
    runs = {name: read_run(path) for name, path in real_runs.items()}
    rows = run_card.compare_settings(runs["lora"], runs["reslora_is"])
    assert {row.name for row in rows if row.differs} == {"method", "merge_approach", "output_dir"}
    text = settings_table("lora", "reslora_is", runs, only=True)
    assert text.count("differs</span>") == 3 and ">rank<" not in text
    assert ">rank<" in settings_table("lora", "reslora_is", runs, only=False)
    assert "Choose two runs" in settings_table("lora", "lora", runs, only=True)


def test_nothing_of_a_file_is_html_in_a_card(made_up):
    evil = "<img src=x onerror=alert(1)>"
    index = made_up / "validation" / "index.jsonl"
    index.write_text(index.read_text().replace("rocket", evil))
    (made_up / "run.json").write_text(json.dumps({"method": evil, "base_model": evil, "arguments": {evil: evil}}))
    run = read_run(made_up)
    shown = card(evil, run, Kept(note=evil)) + settings_table("a", "b", {"a": run, "b": run}, only=False)
    assert evil not in shown and "&lt;img" in shown


def test_a_very_narrow_picture_stays_small_in_the_page():
    assert len(data_address(Image.new("RGB", (1, 4096)), 192)) < 1000
