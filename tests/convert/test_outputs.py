"""Folders that are written whole or not at all."""

import pytest

from reslora_sd.convert.outputs import new_folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("merged", "left"), [(False, {"a": "new"}), (True, {"a": "new", "mine": "x"})])
def test_a_folder_takes_the_place_of_another_in_one_piece(tmp_path, merged, left):
    place = tmp_path / "deep" / "out"
    for text in ("old", "new"):
        with new_folder(place, merged) as folder:
            (folder / "a").write_text(text)
            assert contents(place) == {} if text == "old" else contents(place)["a"] == "old"
        (place / "mine").write_text("x") if text == "old" else None
    assert contents(place) == left and [path.name for path in place.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("merged", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, merged):
    place = tmp_path / "out"
    place.mkdir()
    (place / "a").write_text("old")
    with pytest.raises(KeyError), new_folder(place, merged) as folder:
        (folder / "a").write_text("new")
        raise KeyError
    assert contents(place) == {"a": "old"} and [path.name for path in tmp_path.iterdir()] == ["out"]
