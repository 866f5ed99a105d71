"""Whatever the moment of a kill, a resumed run ends with the files, rows and pictures of a straight one."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.lock import one_writer
from tests.conftest import make_picture_folder
from tests.kills import command, environment, how_to_go_on
from tests.pickled import put_pickle
from tests.scripts import SCRIPTS, load_script
from tests.snapshots import differences, snapshot

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
SCRIPT = "train_text_to_image_reslora"
FOLDER, FINISH = "reslora_sd.runs.folder:RunFolder", "reslora_sd.diffusion.finish"


class Killed(BaseException):
    """Ends a training where nothing is prepared for it, as a kill would."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_picture_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def train(tiny_pipeline_folder, pictures):
    """Runs the script in this process, as `tests.kills` does in one of its own."""
    from accelerate.state import AcceleratorState, GradientState

    def run(output, *more):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = command(tiny_pipeline_folder, pictures, output, *map(str, more))[2:]
        load_script(SCRIPT).main(parse_settings(words))
        return output

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of the straight run, to be changed."""
    return Path(shutil.copytree(straight, tmp_path / "run"))


@contextmanager
def killed(owner, name, call, before=False):
    """Makes a call of a function the last thing that a training does."""
    place = pkgutil.resolve_name(owner)
    original, calls = getattr(place, name), []

    def kill(*args, **kwargs):
        calls.append(name)
        if before and len(calls) == call:
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(place, name, kill)
        yield


MOMENTS = {
    "between a log line and its pictures": (FOLDER, "log", 4),
    "between two pictures of a step": (FOLDER, "add_picture", 7),
    "between pictures and their checkpoint": (FOLDER, "add_checkpoint", 2, True),
    "between the two files of a merged LoRA": ("reslora_sd.files.writing", "save_tensors", 1),
    "between the last checkpoint and the merge": (FINISH, "_merge_all", 1, True),
    "between pictures of the merged models": (FOLDER, "add_picture", 13),
    "after the report": (FOLDER, "finish", 1),
}


_LATE = ("between the two files of a merged LoRA", "after the report")
"""Their neighbours among the moments show nearly the same."""


@pytest.mark.parametrize(
    "moment", [pytest.param(one, marks=pytest.mark.slow) if one in _LATE else one for one in MOMENTS]
)
def test_whatever_the_moment_a_resumed_run_is_the_straight_one(train, straight, tmp_path, moment):
    run = tmp_path / "run"
    with killed(*MOMENTS[moment]):
        train(run)
    train(run, *how_to_go_on(run))
    assert differences(straight, run) == []


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_saves_can_be_continued(
    train, straight, tiny_pipeline_folder, pictures, tmp_path
):
    """By SIGKILL: no `finally` runs, and the folder's lock is freed all the same."""
    code = f"""
import os, signal, sys
import accelerate
save, calls = accelerate.Accelerator.save_state, []
def save_then_die(self, folder, **named):
    save(self, folder, **named)
    calls.append(folder)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
accelerate.Accelerator.save_state = save_then_die
sys.path.insert(0, {str(SCRIPTS)!r})
import {SCRIPT}
{SCRIPT}.cli()
"""
    run = tmp_path / "run"
    words = command(tiny_pipeline_folder, pictures, run)[2:]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert (run / ".checkpoint-4.tmp").is_dir() and (run / ".lock").exists()
    train(run, *how_to_go_on(run))
    assert differences(straight, run) == []


def test_resuming_a_finished_run_changes_nothing_and_raises_no_alarm(train, straight, finished, caplog):
    before = (finished / "log.jsonl").read_bytes()
    train(finished, "--resume_from_checkpoint", "latest")
    assert differences(straight, finished) == [] and (finished / "log.jsonl").read_bytes() == before
    assert "equal those of an earlier step" not in caplog.text


def test_a_finished_run_can_go_on_and_its_base_pictures_raise_no_alarm(train, finished, caplog):
    train(finished, "--resume_from_checkpoint", "latest", "--max_train_steps", 8)
    index = read_jsonl(finished / "validation" / "index.jsonl")
    assert {row["step"] for row in index if row["merge_approach"] != "unmerged"} == {8}
    assert "equal those of an earlier step" not in caplog.text


def test_overwriting_leaves_nothing_of_the_old_run_and_all_of_others(train, finished):
    """Old weights beside a new run.json are taken for the new run's."""
    theirs = ["notes.txt", "validation/mine.png", "logs/theirs/events.out.tfevents.1", "step-000001/a.png"]
    theirs += ["loras/step-000006/notes.txt"]
    for name in theirs:
        (finished / name).parent.mkdir(exist_ok=True, parents=True)
        (finished / name).write_text("theirs")
    for name in ("results.json", "answers.jsonl", "trained_modules.safetensors", "peft/x.json", "fused/y.bin"):
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_text("of a text run")
    (finished / "logs" / "text2image-reslora").mkdir()
    (finished / "logs" / "text2image-reslora" / "events.out.tfevents.2").write_text("ours")
    with killed("reslora_sd.diffusion.validation:Validation", "draw", 1, True):
        train(finished, "--overwrite_output_dir")
    assert snapshot(finished).keys() == {
        "run.json",
        "log.jsonl",
        "validation/index.jsonl",
        "validation/real.jsonl",
        *(name for name in theirs if "tfevents" not in name),
    }
    assert (finished / theirs[2]).exists() and not (finished / "logs" / "text2image-reslora").exists()
    assert (finished / "log.jsonl").read_bytes() == b""


def test_wrong_settings_of_an_overwriting_run_leave_the_old_one(train, straight, finished):
    with pytest.raises(ValueError, match="min_timestep"):
        train(finished, "--overwrite_output_dir", "--max_timestep", 1001)
    assert differences(straight, finished) == []


def test_a_run_resumed_from_an_earlier_checkpoint_drops_the_later_path(train, finished):
    """So that `latest` is of the path that was taken, and the limit removes the oldest of it."""
    assert [path.name for path in sorted(finished.glob("checkpoint-*"))] == ["checkpoint-6", "checkpoint-7"]
    with killed(FOLDER, "add_checkpoint", 1):
        train(finished, "--resume_from_checkpoint", "checkpoint-6", "--learning_rate", 1e-3, "--max_train_steps", 9)
    assert [row["step"] for row in read_jsonl(finished / "log.jsonl")] == list(range(1, 9))
    assert not list(finished.glob("*.safetensors")) and not (finished / "merge_report.json").exists()
    assert not (finished / "validation" / "merged.png").exists()
    assert [path.name for path in sorted(finished.glob("checkpoint-*"))] == ["checkpoint-6", "checkpoint-8"]


def test_a_refused_resume_leaves_the_run_as_it_was(train, straight, finished):
    with pytest.raises(ValueError, match="other settings"):
        train(finished, "--resume_from_checkpoint", "checkpoint-6", "--method", "reslora_is")
    assert differences(straight, finished) == []


@pytest.mark.parametrize("part", ["random_states_0.pkl", "optimizer.bin", "checkpoint.json"])
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_checkpoint_without_a_whole_part_is_refused_by_the_files_name(train, finished, part, fault):
    file = finished / "checkpoint-7" / part
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink() if fault == "missing" else file.write_bytes(content)
    before = snapshot(finished)
    with pytest.raises(ValueError, match=rf"checkpoint-7 can't be resumed from\. .*{part}.*\(checkpoint-6\)"):
        train(finished, "--resume_from_checkpoint", "latest")
    assert snapshot(finished) == before


def test_nothing_in_a_checkpoint_of_a_stranger_is_executed(train, straight, finished, tmp_path):
    put_pickle(finished / "checkpoint-7", "optimizer.bin", tmp_path / "marker", with_torch=True)
    before = snapshot(finished)
    with pytest.raises(ValueError, match=r"optimizer\.bin holds more than tensors"):
        train(finished, "--resume_from_checkpoint", "latest")
    assert snapshot(finished) == before and not (tmp_path / "marker").exists()


def test_damaged_lines_of_a_resumed_run_are_told_and_left_out(train, finished, caplog):
    for name in ("log.jsonl", "validation/index.jsonl"):
        lines = (finished / name).read_text().splitlines()
        lines[1:1] = ["[1]", '{"step": "2"}', '{"loss": 1}', "{"]
        (finished / name).write_text("\n".join(lines) + "\n" + lines[0][:9])
    train(finished, "--resume_from_checkpoint", "latest")
    assert caplog.text.count("And 4 more like it") == 2
    assert [row["step"] for row in read_jsonl(finished / "log.jsonl")] == list(range(1, 8))
    assert json.loads((finished / "merge_report.json").read_text())["approach"] == "least_squares"


def test_a_second_training_in_the_folder_is_refused_and_changes_nothing(train, straight, finished):
    with one_writer(finished):
        before = snapshot(finished)
        for flags in ((), ("--overwrite_output_dir",), ("--resume_from_checkpoint", "latest")):
            with pytest.raises(ValueError, match=rf"another training writes there \(process {os.getpid()} on .*\)"):
                train(finished, *flags)
        assert snapshot(finished) == before
    assert differences(straight, finished) == []


def test_a_checkpoint_of_another_folder_starts_a_run_of_its_own(train, straight, tmp_path):
    run = train(tmp_path / "run", "--resume_from_checkpoint", straight / "checkpoint-6")
    assert [row["step"] for row in read_jsonl(run / "log.jsonl")] == [7]
    with pytest.raises(ValueError, match="holds a run already"):
        train(run, "--resume_from_checkpoint", straight / "checkpoint-6")
