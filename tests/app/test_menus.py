"""A value that isn't offered (any more) is for the page's own functions to judge; Gradio raises no error of it."""

from pathlib import Path

from app.tabs import menus


def test_menus_take_what_is_not_in_their_list_and_nothing_that_is_no_choice():
    menu, ticks, place = menus.Menu(["a"]), menus.Ticks(["a"]), menus.Places(0, 3)
    assert [menu.preprocess(one) for one in ("gone", 7, None, ["a"], {"a": 1})] == ["gone", 7, None, None, None]
    assert ticks.preprocess(["a", "gone", {}, None]) == ["a", "gone"] and ticks.preprocess(None) == []
    assert [place.preprocess(one) for one in (2, 99, -5, None, "2")] == [2, 99, 0, 0, 0]
    assert [one.get_block_name() for one in (menu, ticks, place)] == ["dropdown", "checkboxgroup", "slider"]
    assert not list(Path(menus.__file__).parent.glob("*.pyi"))
