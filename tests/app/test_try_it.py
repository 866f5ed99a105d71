"""What the tab Try it offers, without a browser."""

import json

import pytest

from app.draw_request import DrawRequest
from app.library import Library
from app.tabs import try_it
from app.tabs.shared import Page


@pytest.mark.parametrize(
    ("said", "offered"), [(1.25, 1.25), (7, 7.0), (None, None), ("4", None), (99, None), (float("nan"), None)]
)
def test_the_guidance_that_is_offered_is_that_of_the_first_runs_own_pictures(made_up, tmp_path, said, offered):
    file = made_up / "run.json"
    settings = json.loads(file.read_text())
    settings["arguments"]["validation_guidance_scale"] = said
    file.write_text(json.dumps(settings))
    page = Page(Library([made_up]), tmp_path / "cache", tmp_path / "here")
    assert try_it.guidance_of(page) == (offered or DrawRequest(prompt="any").guidance)


def test_a_page_without_runs_offers_what_suits_the_embedded_model(tmp_path):
    page = Page(Library([tmp_path]), tmp_path / "cache", tmp_path / "here")
    assert try_it.guidance_of(page) == DrawRequest(prompt="any").guidance


def test_draw_waits_until_there_is_a_step_to_draw_with(made_up, tmp_path):
    (made_up / "checkpoint-20").mkdir()
    menus = try_it._menus(Page(Library([made_up]), tmp_path / "cache", tmp_path / "here"))
    for names, ready in (([], False), (["gone"], False), (["LoRA"], True)):
        step, draw = menus(names, None)
        assert (draw.interactive, step.value) == (ready, 20 if ready else None)
