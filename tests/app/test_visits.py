"""What browsers get of the library, made once for all."""

import gzip
import io
import json
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image

from app import visits as module
from app.library import Library
from app.limits import Limits, TooSlowError
from app.synthetic import make_run
from app.tabs.shared import Page


def page_of(run, tmp_path):
    return Page(Library([run]), tmp_path / "cache", tmp_path / "here")


def address(visits):
    (row,) = visits.manifest(visits.select(None))["rows"]
    return row["key"], *row["files"][1].split("/", 1)


def counted(visits):
    made: list[str] = []
    store = visits.store

    def counting(image):
        made.append(store(image))
        return made[-1]

    visits.store = counting
    return made


def test_a_picture_that_was_written_again_is_shown_and_not_kept_by_its_old_address(made_up, tmp_path):
    visits = page_of(made_up, tmp_path).visits
    made, first = counted(visits), address(visits)
    data, as_marked = visits.picture(*first)
    assert visits.picture(*first) == (data, as_marked) == (data, True) and len(made) == 1
    Image.new("RGB", (9, 9), "blue").save(made_up / "validation" / "step-000010" / "unmerged-00-42.png")
    assert address(visits) == first  # no file of the run that is looked at has changed
    data, as_marked = visits.picture(*first)
    assert Image.open(io.BytesIO(data)).size == (9, 9) and not as_marked and len(made) == 2
    for file in ("../run.json", "no/such.png"):
        with pytest.raises(ValueError, match="no such picture"):
            visits.picture(first[0], first[1], file)
    with pytest.raises(ValueError, match="no such picture"):
        visits.picture("0" * 24, *first[1:])


def test_pictures_of_a_run_that_was_deleted_are_not_given_any_more(made_up, tmp_path):
    visits = page_of(made_up.parent, tmp_path).visits
    first = address(visits)
    assert visits.picture(*first)[1]
    shutil.move(made_up, tmp_path / ".trashed")
    with pytest.raises(ValueError, match="no such picture"):
        visits.picture(*first)
    make_run(made_up, steps=20, every=5, side=16)  # another one in its folder
    with pytest.raises(ValueError, match="no such picture"):
        visits.picture(*first)


def test_a_picture_is_made_again_when_the_folder_for_browsers_was_cleaned(made_up, tmp_path):
    visits = page_of(made_up, tmp_path).visits
    made, first = counted(visits), address(visits)
    before = visits.picture(*first)
    Path(made[0]).unlink()
    assert visits.picture(*first) == before and len(made) == 2


def test_all_take_one_look_at_the_folders_and_the_last_one_while_it_goes_on(made_up, tmp_path, monkeypatch):
    library = Library([made_up])
    visits, end, looks = Page(library, tmp_path / "cache", tmp_path / "here").visits, threading.Event(), []
    state = library.state
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.0)
    before = visits.state()

    def slow():
        looks.append(1)
        assert end.wait(30)
        return state()

    monkeypatch.setattr(library, "state", slow)
    first = threading.Thread(target=visits.state)
    first.start()
    while not looks:
        first.join(0.001)
    assert visits.state() == visits.state() == before and looks == [1]
    end.set()
    first.join()


def test_a_first_look_that_takes_too_long_is_told(made_up, tmp_path, monkeypatch):
    visits, end = page_of(made_up, tmp_path).visits, threading.Event()
    visits._looks = Limits(seconds=0.02)
    monkeypatch.setattr(visits.library, "state", lambda: end.wait(30))
    for _ in range(2):
        with pytest.raises(TooSlowError, match="The list of runs takes longer"):
            visits.packed("")
    end.set()


def test_what_is_known_is_given_whatever_others_wait_for(made_up, tmp_path):
    visits, end = page_of(made_up, tmp_path).visits, threading.Event()
    found = visits.packed("run=lora")
    assert json.loads(gzip.decompress(found))["steps"] == [5, 10, 15, 20]
    visits.limits = Limits(seconds=0.02, most=1)
    with pytest.raises(TooSlowError):
        visits.limits.get("Compare", "slow", lambda: end.wait(30))
    assert visits.packed("run=lora") is found
    with pytest.raises(TooSlowError, match="Compare waits"):
        visits.packed("run=lora&seed=7")
    end.set()
