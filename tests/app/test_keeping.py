"""Names, notes and pins of runs, and the trash folder."""

import json
import os

import pytest

from app import keeping, run_list
from app.keeping import Kept
from app.library import Library
from app.synthetic import make_run
from reslora_sd.runs.lock import one_writer


@pytest.fixture
def library(made_up_pair):
    return Library([made_up_pair[0].parent])


def test_a_name_a_note_and_a_pin_are_kept_in_the_run_and_pinned_ones_come_first(library, made_up_pair):
    assert library.keep("ResLoRA (input)", Kept("Second try", "brighter", True)) == "Second try"
    assert list(library.names()) == ["Second try", "LoRA"]
    again = Library(library.folders)
    assert again.kept(made_up_pair[1]) == Kept("Second try", "brighter", True)
    assert library.keep("Second try", Kept()) == "ResLoRA (input)"
    assert list(library.names()) == ["LoRA", "ResLoRA (input)"]


@pytest.mark.parametrize("title", ["../x", "a/b", "<b>", "a\nb", " x", "-x", "x" * 61])
def test_a_name_that_is_none_is_refused(library, title):
    with pytest.raises(ValueError, match="The name is"):
        library.keep("lora", Kept(title))


def test_a_name_of_another_run_is_refused(library):
    with pytest.raises(ValueError, match="Another run is called ResLoRA"):
        library.keep("lora", Kept("ResLoRA (input)"))
    with pytest.raises(ValueError, match="There is no run 'nobody'"):
        library.keep("nobody", Kept("x"))


@pytest.mark.parametrize("text", ["{", "[]", '{"title": 3, "note": [], "pinned": "yes"}', '{"title": "<script>"}'])
def test_a_damaged_file_of_the_page_counts_as_nothing(library, made_up_pair, text):
    (made_up_pair[0] / keeping.KEPT_FILE).write_text(text)
    assert library.kept(made_up_pair[0]) == Kept() and "LoRA" in library.names()


def test_a_deleted_run_is_in_the_trash_folder_and_comes_back_whole(library, made_up_pair):
    run = made_up_pair[0]
    place = keeping.discard(run)
    assert place.parent == run.parent / ".trash" and not run.exists()
    assert list(library.names()) == ["ResLoRA (input)"]
    (label, found), *more = keeping.trashed(library.parents()).items()
    assert (found, more) == (place, []) and label == f"{run.parent.name}/{place.name}"
    assert keeping.bring_back(place) == run
    assert list(library.names()) == ["LoRA", "ResLoRA (input)"] and library.get(["LoRA"])["LoRA"].notes == []


def test_a_run_that_was_named_itself_can_be_deleted_and_brought_back(made_up_pair):
    library = Library(made_up_pair)
    place = keeping.discard(made_up_pair[0])
    assert list(library.names()) == ["ResLoRA (input)"]
    assert list(keeping.trashed(library.parents()).values()) == [place]
    keeping.bring_back(place)
    assert list(library.names()) == ["LoRA", "ResLoRA (input)"]


def test_a_place_that_is_taken_again_keeps_what_it_has(library, made_up_pair, tmp_path):
    place = keeping.discard(made_up_pair[0])
    make_run(made_up_pair[0], steps=1)
    with pytest.raises(ValueError, match="is there again"):
        keeping.bring_back(place)
    with pytest.raises(ValueError, match="holds no run that this page deleted"):
        keeping.bring_back(tmp_path)


def test_a_run_that_is_being_trained_is_neither_renamed_nor_deleted(library, made_up_pair):
    with one_writer(made_up_pair[0]):
        with pytest.raises(ValueError, match="lora is being trained"):
            keeping.discard(made_up_pair[0])
        with pytest.raises(ValueError, match="lora is being trained"):
            library.keep("lora", Kept("other"))
        assert library.keep("lora", Kept(note="looks good")) == "LoRA"
    assert made_up_pair[0].is_dir()


def test_the_list_is_searched_and_sorted_with_pinned_runs_first(library, made_up_pair):
    rows = (made_up_pair[1] / "log.jsonl").read_text().splitlines()
    (made_up_pair[1] / "log.jsonl").write_text(json.dumps({**json.loads(rows[-1]), "validation_loss": 0.1}))
    items = run_list.items(library)

    def names(words="", order="name"):
        return [item.name for item in run_list.chosen_items(items, words, order)]

    assert names() == ["LoRA", "ResLoRA (input)"]
    assert names(order="lowest loss first") == ["ResLoRA (input)", "LoRA"]
    assert names("RESLORA finished") == ["ResLoRA (input)"] and names("nothing") == []
    library.keep("reslora_is", Kept(note="for Ann", pinned=True))
    items = run_list.items(library)
    assert names() == ["ResLoRA (input)", "LoRA"] and names("ann") == ["ResLoRA (input)"]


def test_a_folder_with_more_than_one_run_or_with_none_stays(library, made_up_pair, tmp_path):
    deep = tmp_path / "all" / "a" / "b" / "c"
    make_run(deep / "run", steps=1)
    (only,) = Library([tmp_path / "all"]).names()
    with pytest.raises(ValueError, match="is no run"):
        Library([tmp_path / "all"]).discard(only)
    for inner in (make_run(made_up_pair[0] / "inner", steps=1), made_up_pair[1] / "here"):
        with pytest.raises(ValueError, match="holds more than one run"):
            Library([made_up_pair[0], made_up_pair[1]], inner).discard(inner.parent.name)
    with pytest.raises(ValueError, match="holds more than one run"):
        library.discard("lora")
    assert deep.is_dir() and all(run.is_dir() for run in made_up_pair)


def test_a_link_is_no_run_to_delete_and_nothing_is_kept_about_what_is_gone(made_up, tmp_path):
    link = tmp_path / "linked" / "run"
    link.parent.mkdir()
    link.symlink_to(made_up)
    with pytest.raises(ValueError, match="is a link to a folder elsewhere"):
        Library([link.parent]).discard("lora")
    place = keeping.discard(made_up)
    assert not {".lock", ".writer.json"} & {one.name for one in place.iterdir()}
    with pytest.raises(ValueError, match="is gone"):
        keeping.write_kept(made_up, Kept(note="late"))
    assert not made_up.exists()


def test_a_note_leaves_a_runs_state_and_its_place_in_the_list(library, made_up_pair):
    (made_up_pair[0] / "merge_report.json").unlink()
    for number, run in enumerate(made_up_pair):
        for file in ("run.json", "log.jsonl", "validation/index.jsonl"):
            os.utime(run / file, (1e9 + number, 1e9 + number))
        for file in run.glob("merge_report.json"):
            os.utime(file, (1e9 + number, 1e9 + number))
    library.keep("lora", Kept(note="too dark"))
    first, second = run_list.chosen_items(run_list.items(library), "", run_list.NEWEST)
    assert (first.name, second.name, second.state, second.note) == ("ResLoRA (input)", "LoRA", "cut off", "too dark")
