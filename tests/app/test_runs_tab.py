"""What the buttons of the tab Runs do, without a browser."""

import shutil

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import keeping
from app.downloads import address, routes
from app.library import Library, key_of
from app.tabs import runs
from app.tabs.shared import Page
from reslora_sd.runs.lock import one_writer


def token(page, key):
    return page.library.token(page.library.find(key))


@pytest.fixture
def page(made_up_pair, tmp_path):
    return Page(Library([made_up_pair[0].parent]), tmp_path / "cache", tmp_path / "here")


@pytest.fixture
def keys(made_up_pair):
    return [key_of(path) for path in made_up_pair]


def test_the_list_the_card_and_the_settings_are_drawn_for_what_is_asked(page, keys):
    draw = runs._draw(page)
    listed, which, card, settings, *_ = draw(*keys, "", "name", None, True, "")
    assert '<span title="reslora_is">ResLoRA (input)</span>' in listed and "in files and flags lora." in card
    assert which.value == keys[0] and "<h2>LoRA</h2>" in card and "differ." in settings
    listed, which, card, *_ = draw(*keys, "reslora", "name", keys[0], True, "")
    assert ">LoRA<" not in listed and "<h2>LoRA</h2>" in card  # what is open stays open while one searches
    assert "There is no run gone" in draw(keys[0], None, "", "name", "gone", True, "")[2]


def test_a_run_that_gets_a_name_stays_ticked_and_open(page, keys, made_up_pair):
    mine = token(page, keys[0])
    said, which, chosen = runs._keep(page)(keys[0], mine, " Mine ", "a note", True, keys)
    assert "Kept for Mine" in said and which.value == keys[0] and chosen.value == keys
    assert chosen.choices == [("Mine", keys[0]), ("ResLoRA (input)", keys[1])]
    assert runs._fields(page, made_up_pair[0]) == ("Mine", "a note", True)
    assert "There is no run" in runs._keep(page)("gone", mine, "x", "", False, [])[0]
    assert "The name is" in runs._keep(page)(keys[0], mine, "<b>", "", False, [])[0]


def test_runs_of_equal_name_are_never_taken_for_each_other(page, keys, made_up_pair, tmp_path):
    other = tmp_path / "z" / "lora"
    shutil.copytree(made_up_pair[0], other)
    assert [name for name, _ in page.choices()] == [f"LoRA, {tmp_path.name}/lora", "ResLoRA (input)", "LoRA, z/lora"]
    assert [run.path for run in page.runs([key_of(other)]).values()] == [other]
    page.library.discard(keys[0])
    assert page.choices()[1] == ("LoRA", key_of(other)) and page.runs([keys[0]]) == {}


def test_a_deleted_run_says_where_it_went_and_comes_back_ticked(page, keys, made_up_pair):
    said, which, chosen, trash, back = runs._delete(page)(keys[0], token(page, keys[0]), keys)
    place = next(iter(keeping.trashed(page.library.parents()).values()))
    assert f"LoRA is in {place}" in said and which.value == keys[1] and chosen.value == keys[1:] and back.visible
    said, which, chosen, trash, back = runs._bring_back(page)(trash.value, keys[1:])
    assert "LoRA is back" in said and which.value == keys[0] and chosen.value == keys
    assert not back.visible and made_up_pair[0].is_dir()
    assert "Choose a deleted run" in runs._bring_back(page)("../etc", [])[0]


def test_a_run_that_is_being_trained_is_left_alone(page, keys, made_up_pair):
    with one_writer(made_up_pair[0]):
        assert "is being trained" in runs._delete(page)(keys[0], token(page, keys[0]), [])[0]
        assert "is being trained" in runs._keep(page)(keys[0], token(page, keys[0]), "other", "", False, [])[0]
    assert made_up_pair[0].is_dir()


def test_a_folder_that_has_become_another_run_changes_and_gives_nothing_of_it(page, keys, made_up_pair, tmp_path):
    folder = made_up_pair[0]
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    draw, shown = runs._draw(page), token(page, keys[0])
    assert shown in draw(keys[0], None, "", "name", keys[0], True, "")[2]
    runs._delete(page)(keys[0], shown, [])
    (tmp_path / "elsewhere" / "copy").rename(folder)
    assert "is another run by now" in runs._delete(page)(keys[0], shown, [])[0] and folder.is_dir()
    assert "is another run by now" in runs._keep(page)(keys[0], shown, "x", "", False, [])[0]
    app = FastAPI()
    app.include_router(routes(page.library, tmp_path / "cache"))
    answer = TestClient(app).get(address(keys[0], "settings", shown))
    assert answer.status_code == 404 and "is another run by now" in answer.text
    page.library.keep(keys[0], keeping.Kept(note="of the other"))
    *_, now, _, note, _ = draw(keys[0], None, "", "name", keys[0], True, shown)
    assert note == "of the other" and now == token(page, keys[0]) != shown
    assert draw(keys[0], None, "", "name", keys[0], True, now)[-2] == gr.skip()  # somebody may be typing


def test_a_run_that_comes_back_where_the_page_looks_for_none_is_told_by_its_folder(page, made_up_pair, monkeypatch):
    place = keeping.discard(made_up_pair[0])
    monkeypatch.setattr(runs, "_deleted", lambda _: {"it": place})
    monkeypatch.setattr(Library, "names", lambda _: {})
    assert f"It is back in {made_up_pair[0]}" in runs._bring_back(page)("it", [])[0]
