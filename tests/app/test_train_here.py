"""What the tab Train here does with what is typed and uploaded, without a browser."""

from dataclasses import astuple

import pytest
from PIL import Image

from app import training
from app.library import Library
from app.tabs import train_here
from app.tabs.shared import Page
from app.training_request import BUILT_IN, OWN, TrainingRequest
from reslora_sd.diffusion.arguments import parse_settings, to_arguments


@pytest.fixture
def started(monkeypatch):
    """Requests of the trainings that would have begun."""
    requests: list[TrainingRequest] = []
    monkeypatch.setattr(training, "start", lambda request, folder: requests.append(request))
    return requests


@pytest.fixture
def make_page(made_up, tmp_path, started):
    def make(**changes):
        return Page(Library([made_up]), tmp_path / "cache", tmp_path / "here", **changes)

    return make


def start(
    page,
    source="Included drawings",
    files=None,
    caption="",
    path="",
    prompts="x",
    name="first",
    model="embedded",
    steps=10,
    batch=2,
    rate=1e-3,
    rank=4,
    every=5,
):
    methods = ["lora", "reslora_is"]
    return train_here._start(page)(
        source, files, caption, path, prompts, name, methods, model, steps, batch, rate, rank, 1, every
    )


def test_uploaded_pictures_become_the_folder_that_both_methods_train_on(make_page, started, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    page = make_page()
    assert "Started lora and reslora_is" in start(
        page, "Upload pictures", [str(tmp_path / "red.png")], "a photo of rex"
    )
    (request,) = started
    assert request.pictures == page.trainings / "first" / "pictures"
    assert "a photo of rex" in (request.pictures / "metadata.jsonl").read_text()
    assert "holds pictures already" in start(page, "Upload pictures", [str(tmp_path / "red.png")])


def test_a_typed_folder_may_be_any_on_this_machine_but_only_an_allowed_one_from_others(make_page, picture_folder):
    assert "Started" in start(make_page(), "Folder on this machine", path=str(picture_folder))
    open_to_all = make_page(local=False)
    assert "no folder" in start(open_to_all, "Folder on this machine", path=str(picture_folder))
    assert "no folder" in start(open_to_all, "Folder on this machine", path="/etc")
    assert "no folder" in start(open_to_all, model=str(picture_folder))
    allowed = make_page(local=False, allowed=[picture_folder.parent])
    assert "Started" in start(allowed, "Folder on this machine", path=str(picture_folder))
    assert "no folder" in start(allowed, "Folder on this machine", path=f"{picture_folder}/../../..")


@pytest.mark.parametrize("name", ["../x", "<b>", "", "a/b"])
def test_a_name_that_is_no_folders_is_refused_before_anything_is_written(make_page, started, tmp_path, name):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    page = make_page()
    said = start(page, "Upload pictures", [str(tmp_path / "red.png")], name=name)
    assert "The name is" in said and "<b>" not in said
    assert not started and not page.trainings.exists()


def test_own_pictures_bring_the_scripts_own_defaults_and_leave_what_was_typed():
    built_in, own = astuple(BUILT_IN), astuple(OWN)
    assert train_here._suggest("Upload pictures", "embedded", *built_in) == own
    assert train_here._suggest("Folder on this machine", "embedded", *own) == own
    assert train_here._suggest("Included drawings", "embedded", *own) == built_in
    typed = ("a red fish", 77, built_in[2], 10.0)  # Gradio's numbers are floats
    assert train_here._suggest("Upload pictures", "embedded", *typed) == ("a red fish", 77, *own[2:])
    assert train_here._suggest("Upload pictures", "other/model", *built_in) == built_in


def test_what_the_page_suggests_for_own_pictures_is_what_the_script_does_alone(make_page, started, picture_folder):
    prompts, steps, rate, every = astuple(OWN)
    pictures = {"source": "Folder on this machine", "path": str(picture_folder), "prompts": prompts}
    assert "Started" in start(make_page(), **pictures, steps=steps, batch=4, rate=rate, rank=16, every=every)
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


def test_a_number_that_was_deleted_is_told(make_page, started):
    page = make_page()
    assert "The number of steps is missing." in start(page, steps=None)
    assert "The rank is missing." in start(page, rank=None)
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
