"""What the buttons of the tab Runs do, without a browser."""

import shutil

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import keeping
from app.downloads import address, routes
from app.library import Library
from app.tabs import runs
from app.tabs.shared import Page
from reslora_sd.runs.lock import one_writer


def token(page, name):
    return page.library.token(page.library.names()[name])


@pytest.fixture
def page(made_up_pair, tmp_path):
    return Page(Library([made_up_pair[0].parent]), tmp_path / "cache", tmp_path / "here")


def test_the_list_the_card_and_the_settings_are_drawn_for_what_is_asked(page):
    draw = runs._draw(page)
    listed, which, card, settings, *_ = draw("lora", "reslora_is", "", "name", None, True, "")
    assert "reslora_is" in listed and which.value == "lora" and "<h2>lora</h2>" in card and "differ." in settings
    listed, which, card, *_ = draw("lora", "reslora_is", "reslora", "name", "lora", True, "")
    assert ">lora<" not in listed and "<h2>lora</h2>" in card  # what is open stays open while one searches
    assert "There is no run gone" in draw("lora", None, "", "name", "gone", True, "")[2]


def test_a_run_that_gets_a_name_stays_ticked_and_open(page, made_up_pair):
    mine = token(page, "lora")
    said, which, chosen = runs._keep(page)("lora", mine, " Mine ", "a note", True, ["lora", "reslora_is"])
    assert "Kept for Mine" in said and which.value == "Mine" and chosen.value == ["Mine", "reslora_is"]
    assert runs._fields(page, made_up_pair[0]) == ("Mine", "a note", True)
    assert "There is no run" in runs._keep(page)("lora", mine, "x", "", False, [])[0]
    assert "The name is" in runs._keep(page)("Mine", mine, "<b>", "", False, [])[0]


def test_a_deleted_run_says_where_it_went_and_comes_back_ticked(page, made_up_pair):
    said, which, chosen, trash, back = runs._delete(page)("lora", token(page, "lora"), ["lora", "reslora_is"])
    place = next(iter(keeping.trashed(page.library.parents()).values()))
    assert str(place) in said and which.value == "reslora_is" and chosen.value == ["reslora_is"] and back.visible
    said, which, chosen, trash, back = runs._bring_back(page)(trash.value, ["reslora_is"])
    assert "lora is back" in said and which.value == "lora" and chosen.value == ["lora", "reslora_is"]
    assert not back.visible and made_up_pair[0].is_dir()
    assert "Choose a deleted run" in runs._bring_back(page)("../etc", [])[0]


def test_a_run_that_is_being_trained_is_left_alone(page, made_up_pair):
    with one_writer(made_up_pair[0]):
        assert "is being trained" in runs._delete(page)("lora", token(page, "lora"), [])[0]
        assert "is being trained" in runs._keep(page)("lora", token(page, "lora"), "other", "", False, [])[0]
    assert made_up_pair[0].is_dir()


def test_a_name_that_has_become_another_runs_changes_and_gives_nothing_of_it(page, made_up_pair, tmp_path):
    other = tmp_path / "z" / "lora"
    shutil.copytree(made_up_pair[0], other)
    draw, shown = runs._draw(page), token(page, "lora")
    assert shown in draw("lora", None, "", "name", "lora", True, "")[2]
    assert page.library.names()[f"lora ({other.parent.name}/lora)"] == other
    runs._delete(page)("lora", shown, [])
    assert page.library.names()["lora"] == other
    assert "is another run by now" in runs._delete(page)("lora", shown, [])[0] and other.is_dir()
    assert "is another run by now" in runs._keep(page)("lora", shown, "x", "", False, [])[0]
    app = FastAPI()
    app.include_router(routes(page.library, tmp_path / "cache"))
    answer = TestClient(app).get(address("lora", "settings", shown))
    assert answer.status_code == 404 and "is another run by now" in answer.text
    page.library.keep("lora", keeping.Kept(note="of the other"))
    *_, now, _, note, _ = draw("lora", None, "", "name", "lora", True, shown)
    assert note == "of the other" and now == token(page, "lora") != shown
    assert draw("lora", None, "", "name", "lora", True, now)[-2] == gr.skip()  # somebody may be typing


def test_a_run_that_comes_back_where_the_page_looks_for_none_is_told_by_its_folder(page, made_up_pair, monkeypatch):
    place = keeping.discard(made_up_pair[0])
    monkeypatch.setattr(runs, "_deleted", lambda _: {"it": place})
    monkeypatch.setattr(Library, "names", lambda _: {})
    assert f"It is back in {made_up_pair[0]}" in runs._bring_back(page)("it", [])[0]
