"""What all tabs share."""

from PIL import Image

from app.library import Library
from app.pictures import PictureView, view
from app.tabs import page as whole
from app.tabs.shared import Page


def test_no_choice_is_dropped_while_the_one_before_is_answered(made_up, tmp_path):
    blocks = whole.build(Page(Library([made_up]), tmp_path / "cache", tmp_path / "here"))
    follows = {"select", "input", "release", "change"}
    modes = {
        (event, function.name): function.trigger_mode
        for function in blocks.fns.values()
        for _, event in function.targets
        if event in follows
    }
    assert len(modes) > 10
    assert {key: mode for key, mode in modes.items() if mode != "always_last"} == {}


def test_a_picture_that_somebody_had_is_not_made_again_until_its_file_changes(made_up, tmp_path, monkeypatch):
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here")
    made: list[str] = []
    file = Page.file

    def counting(self, image, name):
        made.append(name)
        return file(self, image, name)

    monkeypatch.setattr(Page, "file", counting)

    def shown():
        (run,) = page.runs(["LoRA"]).values()
        return page.picture_file(view("lora", run, "cat face", 42, "unmerged", 10))

    first = shown()
    assert shown() == first and len(made) == 1
    Image.new("RGB", (9, 9), "blue").save(made_up / "validation" / "step-000010" / "unmerged-00-42.png")
    assert shown() != first and len(made) == 2
    assert page.picture_file(PictureView("x", "x")) is None
