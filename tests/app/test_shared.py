"""What all tabs share."""

import pytest
from PIL import Image

from app.library import Library
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


def test_a_picture_that_somebody_had_is_not_made_again_and_has_a_new_address_when_its_file_changes(made_up, tmp_path):
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here")
    made: list[str] = []
    store = page.visits.store

    def counting(image):
        made.append(store(image))
        return made[-1]

    page.visits.store = counting

    def address():
        (row,) = page.visits.manifest(page.visits.select(None))["rows"]
        return row["key"], *row["files"][1].split("/", 1)

    first = address()
    assert page.visits.picture(*first) == page.visits.picture(*first) == page.visits.ready(*first)
    assert len(made) == 1
    Image.new("RGB", (9, 9), "blue").save(made_up / "validation" / "step-000010" / "unmerged-00-42.png")
    page.visits = type(page.visits)(page.library, counting)  # the address is remembered while no file of a run changes
    with pytest.raises(ValueError, match="written again"):
        page.visits.picture(*first)
    assert address() != first and page.visits.picture(*address()) != made[0]
    with pytest.raises(ValueError, match="no such picture"):
        page.visits.picture(first[0], first[1], "../run.json")
