"""What the buttons of the tab Runs do, without a browser."""

import pytest

from app import keeping
from app.library import Library
from app.tabs import runs
from app.tabs.shared import Page
from reslora_sd.runs.lock import one_writer


@pytest.fixture
def page(made_up_pair, tmp_path):
    return Page(Library([made_up_pair[0].parent]), tmp_path / "cache", tmp_path / "here")


def test_the_list_the_card_and_the_settings_are_drawn_for_what_is_asked(page):
    draw = runs._draw(page)
    listed, which, card, settings, _ = draw("lora", "reslora_is", "", "name", None, True)
    assert "reslora_is" in listed and which.value == "lora" and "<h2>lora</h2>" in card and "differ." in settings
    listed, which, card, _, _ = draw("lora", "reslora_is", "reslora", "name", "lora", True)
    assert ">lora<" not in listed and "<h2>lora</h2>" in card  # what is open stays open while one searches
    assert "There is no run gone" in draw("lora", None, "", "name", "gone", True)[2]


def test_a_run_that_gets_a_name_stays_ticked_and_open(page, made_up_pair):
    said, which, chosen = runs._keep(page)("lora", " Mine ", "a note", True, ["lora", "reslora_is"])
    assert "Kept for Mine" in said and which.value == "Mine" and chosen.value == ["Mine", "reslora_is"]
    assert runs._fields(page)("Mine") == ("Mine", "a note", True)
    assert "There is no run" in runs._keep(page)("lora", "x", "", False, [])[0]
    assert "The name is" in runs._keep(page)("Mine", "<b>", "", False, [])[0]


def test_a_deleted_run_says_where_it_went_and_comes_back_ticked(page, made_up_pair):
    said, which, chosen, trash, back = runs._delete(page)("lora", ["lora", "reslora_is"])
    place = next(iter(keeping.trashed(page.library.parents()).values()))
    assert str(place) in said and which.value == "reslora_is" and chosen.value == ["reslora_is"] and back.visible
    said, which, chosen, trash, back = runs._bring_back(page)(trash.value, ["reslora_is"])
    assert "lora is back" in said and which.value == "lora" and chosen.value == ["lora", "reslora_is"]
    assert not back.visible and made_up_pair[0].is_dir()
    assert "Choose a deleted run" in runs._bring_back(page)("../etc", [])[0]


def test_a_run_that_is_being_trained_is_left_alone(page, made_up_pair):
    with one_writer(made_up_pair[0]):
        assert "is being trained" in runs._delete(page)("lora", [])[0]
        assert "is being trained" in runs._keep(page)("lora", "other", "", False, [])[0]
    assert made_up_pair[0].is_dir()
