"""What the tab Train here does with what is typed and uploaded, without a browser."""

import json
from dataclasses import astuple

import gradio as gr
import pytest
from PIL import Image

from app import training
from app.library import Library
from app.tabs import train_form, train_here
from app.tabs.shared import Page
from app.training_request import BUILT_IN, OWN, TrainingRequest
from app.uploads import pick
from reslora_sd.diffusion.arguments import parse_settings, to_arguments


@pytest.fixture
def started(monkeypatch):
    """Requests of the trainings that would have begun."""
    requests: list[TrainingRequest] = []

    def start(request, folder, save):
        if request.pictures == folder / request.name / "pictures":
            save(request.pictures)
        requests.append(request)

    monkeypatch.setattr(training, "start", start)
    return requests


@pytest.fixture
def make_page(made_up, tmp_path, started):
    def make(**changes):
        return Page(Library([made_up]), tmp_path / "cache", tmp_path / "here", **changes)

    return make


@pytest.fixture(scope="module")
def form():
    with gr.Blocks():
        return train_form.build()[0]


@pytest.fixture
def start(form):
    """Presses Start with these fields, and the rest as it stands."""

    def press(page, **typed):
        usual = {"prompts": "x", "steps": 10, "batch": 2, "rate": 1e-3, "rank": 4, "seed": 1, "every": 5}
        values = {name: getattr(component, "value", None) for name, component in form.fields.items()}
        said, shown = train_here._start(page, form)(*{**values, **usual, **typed}.values())
        return said, getattr(shown, "value", None)

    return press


def upload(path, colour="red"):
    Image.new("RGB", (8, 8), colour).save(path)
    return pick([path])[0]


def test_uploaded_pictures_become_the_folder_that_both_methods_train_on_and_the_new_training_is_chosen(
    make_page, start, started, tmp_path
):
    page = make_page()
    said, shown = start(
        page, source="Upload pictures", picked=upload(tmp_path / "red.png"), caption="rex", typed='{"0": "rex, asleep"}'
    )
    (request,) = started
    assert "Started LoRA and ResLoRA (input)" in said and shown == "first/lora"
    assert request.pictures == page.trainings / "first" / "pictures"
    assert '"rex, asleep"' in (request.pictures / "metadata.jsonl").read_text()


def test_a_second_press_says_that_it_runs_and_another_training_of_the_name_what_to_call_it(
    make_page, start, tmp_path, monkeypatch
):
    monkeypatch.undo()
    began: list[str] = []

    def launch(request, home, method, threads):
        (home / method).mkdir(parents=True)
        (home / method / "training.json").write_text(json.dumps({"settings": request.to_dict()}))
        began.append(method)

    monkeypatch.setattr(training, "_launch", launch)
    page = make_page()
    asked = {"source": "Upload pictures", "picked": upload(tmp_path / "red.png"), "typed": "{}"}
    assert "Started" in start(page, **asked)[0]
    said, shown = start(page, **asked)
    assert 'class="say good"' in said and "was started with these settings already" in said and shown == "first/lora"
    assert began == ["lora", "reslora_is"]
    said, shown = start(page, **asked, steps=11)
    assert "such as first-2" in said and 'class="say bad"' in said and shown is None
    assert "such as first-2" in start(page, **asked, methods=["reslora_bs"])[0]  # pictures of the first
    assert len(began) == 2


def test_every_setting_beyond_the_usual_is_one_of_the_request(make_page, start, started):
    start(make_page(), resolution="64", lora_alpha=" 8", schedule="cosine", max_timestep="500")
    (request,) = started
    assert (request.resolution, request.lora_alpha, request.lr_scheduler) == (64, 8.0, "cosine")
    assert (request.max_timestep, request.snr_gamma) == (500, None)
    assert "Resolution is 64.5" in start(make_page(), resolution="64.5")[0]
    assert "Resolution is 30000" in start(make_page(), resolution="30000")[0]
    assert "Resolution is 'large'" in start(make_page(), resolution="large")[0].replace("&#x27;", "'")


def test_uploads_show_their_captions_and_give_the_prompts(make_page, start, started, tmp_path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a red <b>field</b>")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = sorted(map(str, tmp_path.iterdir()))
    look = train_form._look_at_files(files, [], "", "", "", BUILT_IN.prompts)
    said, thumbnails, picked, taken, prompts = look
    assert "2 pictures to train on." in said and "&#x27;b.png&#x27; is no whole picture" in said
    assert "a red &lt;b&gt;field" in thumbnails and thumbnails.count("data:image/webp;base64,") == 2
    assert prompts == taken == "a red <b>field</b>\nc"
    more = train_form._look_at_files(files[:1], picked, '{"0": "edited"}', taken, "", prompts)
    assert ">edited</textarea>" in more[1] and more[4] == "edited"  # what was typed stays, prompts follow
    assert train_form._look_at_files(files, [], "", taken, "", "my own")[4] == "my own"
    start(make_page(), source="Upload pictures", picked=picked, typed='{"1": "sea"}', prompts=taken, taken=taken)
    assert started[0].prompts == ("a red <b>field</b>", "sea")


@pytest.mark.parametrize("typed", [None, "", "{", "[]", '{"x": "a"}', '{"0": 1}', '{"-1": "a"}'])
def test_captions_that_no_page_of_ours_sends_are_none(typed):
    assert train_form.read_typed(typed) == {}


def test_stop_leaves_a_training_that_merges_to_finish_and_says_how_long(make_page, monkeypatch):
    page = make_page()
    (page.trainings / "first" / "lora").mkdir(parents=True)
    monkeypatch.setattr(training, "status", lambda run: training.Status("finishing", 5, 5, "about 20 s left"))
    monkeypatch.setattr(training, "stop", lambda run: False)
    assert "finishes by itself (about 20 s left)" in train_here._stop(page)("first/lora")


def test_a_typed_folder_may_be_any_here_but_only_an_allowed_one_from_others(make_page, start, picture_folder):
    assert "Started" in start(make_page(), source="Folder on this machine", path=str(picture_folder))[0]
    open_to_all = make_page(local=False)
    assert "no folder" in start(open_to_all, source="Folder on this machine", path=str(picture_folder))[0]
    assert "no folder" in start(open_to_all, source="Folder on this machine", path="/etc")[0]
    assert "no folder" in start(open_to_all, model=str(picture_folder))[0]
    allowed = make_page(local=False, allowed=[picture_folder.parent])
    assert "Started" in start(allowed, source="Folder on this machine", path=str(picture_folder))[0]
    assert "no folder" in start(allowed, source="Folder on this machine", path=f"{picture_folder}/../../..")[0]


@pytest.mark.parametrize("name", ["../x", "<b>", "", "a/b"])
def test_a_name_that_is_no_folders_is_refused_before_anything_is_written(make_page, start, started, tmp_path, name):
    page = make_page()
    said, _ = start(page, source="Upload pictures", picked=upload(tmp_path / "red.png"), name=name)
    assert "The name is" in said and "<b>" not in said
    assert not started and not page.trainings.exists()


def test_own_pictures_bring_the_scripts_own_defaults_and_leave_what_was_typed():
    built_in, own = astuple(BUILT_IN), astuple(OWN)
    assert train_form._suggest("Upload pictures", "embedded", *built_in) == own
    assert train_form._suggest("Folder on this machine", "embedded", *own) == own
    assert train_form._suggest("Included drawings", "embedded", *own) == built_in
    typed = ("a red fish", 77, built_in[2], 10.0)  # Gradio's numbers are floats
    assert train_form._suggest("Upload pictures", "embedded", *typed) == ("a red fish", 77, *own[2:])
    assert train_form._suggest("Upload pictures", "other/model", *built_in) == built_in


def test_what_the_page_suggests_for_own_pictures_is_the_scripts_own(make_page, start, started, picture_folder):
    prompts, steps, rate, every = astuple(OWN)
    pictures = {"source": "Folder on this machine", "path": str(picture_folder), "prompts": prompts}
    assert "Started" in start(make_page(), **pictures, steps=steps, batch=4, rate=rate, rank=16, every=every)[0]
    (request,) = started
    page = to_arguments(parse_settings(request.flags(picture_folder / "runs", "lora")))
    alone = to_arguments(parse_settings(["--train_data_dir", str(picture_folder), "--method", "lora"]))
    different = {name for name in page if page[name] != alone[name]}
    assert different == {"output_dir", "seed", "checkpointing_steps"}


def test_nothing_outside_the_trainings_can_be_stopped_or_gone_on_with(make_page, made_up):
    page = make_page()
    page.trainings.mkdir()
    for name in (None, "../lora", str(made_up), "nothing"):
        for handler in (train_here._stop(page), train_here._resume(page)):
            assert 'class="say bad"' in handler(name)


def test_a_number_that_was_deleted_is_told(make_page, start, started):
    page = make_page()
    assert "The number of steps is missing." in start(page, steps=None)[0]
    assert "The rank is missing." in start(page, rank=None)[0]
    assert not started


def test_the_list_shows_every_training_as_text(make_page):
    page = make_page()
    run = page.trainings / "first" / "lora"
    run.mkdir(parents=True)
    (run / "training.json").write_text("{}")
    (run / "train.log").write_text("Error: <script>alert(1)</script>\n")
    rows, which, _, _ = train_here._watch(page)(None)
    assert "&lt;script&gt;" in rows and "<script>" not in rows and "failed" in rows
    assert which.value == "first/lora"
    assert "step 0 of ?" in rows
