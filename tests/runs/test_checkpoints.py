"""Checkpoints with a list of their files."""

import json

import pytest

from reslora_sd.runs.checkpoints import (
    check_checkpoint,
    find_checkpoint,
    list_checkpoints,
    publish,
    remove_checkpoint,
    remove_oldest,
    unfinished,
)


def write(folder, step, text="weights"):
    target = folder / f"checkpoint-{step}"
    (unfinished(target) / "part").mkdir(parents=True)
    (unfinished(target) / "part" / "a.bin").write_text(text)
    (unfinished(target) / "b.bin").write_bytes(b"")
    publish(unfinished(target), target, processes=1)
    return target


def test_a_published_checkpoint_is_whole_and_says_what_it_holds(tmp_path):
    checkpoint = write(tmp_path, 4)
    manifest = check_checkpoint(checkpoint)
    assert manifest["step"] == 4 and manifest["processes"] == 1
    assert manifest["files"].keys() == {"b.bin", "part/a.bin"} and manifest["files"]["part/a.bin"]["bytes"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_one_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 4)
    assert (write(tmp_path, 4, "other") / "part" / "a.bin").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda path: (path / "part" / "a.bin").unlink(), "part/a.bin is missing"),
        (lambda path: (path / "part" / "a.bin").write_text("weighty"), "part/a.bin is damaged"),
        (lambda path: (path / "b.bin").write_text("more"), "b.bin is damaged"),
        (lambda path: (path / "checkpoint.json").unlink(), "There is no checkpoint.json"),
        (lambda path: (path / "checkpoint.json").write_text("{"), "checkpoint.json is no JSON"),
        (lambda path: (path / "checkpoint.json").write_text('{"step": 4, "files": {}}'), "checkpoint.json is not the"),
        (lambda path: (path / "checkpoint.json").write_text('{"step": 4, "files": {"b.bin": 1}}'), "b.bin is damaged"),
        (lambda path: (path / "checkpoint.json").write_text('{"step": 3, "files": {"b.bin": 1}}'), "renamed"),
    ],
)
def test_what_is_not_whole_is_refused_by_its_name(tmp_path, fault, words):
    write(tmp_path, 2)
    fault(write(tmp_path, 4))
    for asked in ("latest", "checkpoint-4", str(tmp_path / "checkpoint-4")):
        with pytest.raises(ValueError, match=rf"{words}.* Resume from another one \(checkpoint-2\)\."):
            find_checkpoint(tmp_path, asked)
    assert find_checkpoint(tmp_path, "checkpoint-2").name == "checkpoint-2"


def test_any_changed_byte_is_found(tmp_path):
    file = write(tmp_path, 4) / "part" / "a.bin"
    honest = file.read_bytes()
    for place in range(len(honest)):
        changed = bytearray(honest)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"part/a\.bin is damaged"):
            find_checkpoint(tmp_path, "latest")


def test_the_newest_stay_by_their_steps_and_not_by_their_times(tmp_path):
    for step in (10, 2, 9):
        write(tmp_path, step)
    remove_oldest(tmp_path, None)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    remove_oldest(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_a_kill_in_the_middle_of_removing_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    checkpoint = write(tmp_path, 4)
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors=False: None)
    remove_checkpoint(checkpoint)
    assert list_checkpoints(tmp_path) == [] and [path.name for path in tmp_path.iterdir()] == [".checkpoint-4.old.tmp"]


def test_one_of_the_run_goes_before_one_of_that_name_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "here", 4)
    write(tmp_path / "run", 4)
    monkeypatch.chdir(tmp_path / "here")
    assert find_checkpoint(tmp_path / "run", "checkpoint-4") == tmp_path / "run" / "checkpoint-4"
    assert json.loads((tmp_path / "run" / "checkpoint-4" / "checkpoint.json").read_text())["step"] == 4
