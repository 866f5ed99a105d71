"""A sweep's own files, as a kill or an editor may have left them."""

import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from reslora_sd.runs.sweep import SETTINGS_FILE, Launching, Training, claim_folder, has_result, read_result, run_all

DAMAGED = ("", "{", "[1]", "null", '{"method": ', "\x00")


@pytest.mark.parametrize("text", DAMAGED)
def test_settings_that_cannot_be_read_are_a_clear_error_where_runs_depend_on_them(tmp_path, text):
    (tmp_path / SETTINGS_FILE).write_text(text)
    claim_folder(tmp_path, {"task": "svamp"}, "results.json")  # nothing is done yet
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "results.json").touch()
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.json .*nobody knows which settings .* --output_dir"):
        claim_folder(tmp_path, {"task": "svamp"}, "results.json")


@pytest.mark.parametrize("text", [*DAMAGED, "{}", '{"method": "lora"}'])
def test_a_damaged_result_is_made_again_and_never_a_traceback(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    assert not has_result(file, ("method", "results"))
    with pytest.raises(ValueError, match=r"results\.json is damaged\. .*start the same command again"):
        read_result(file, ("method", "results"))


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't be written"):
        claim_folder(tmp_path / "file" / "sweep", {}, "results.json")


def test_trained_runs_count_by_any_of_their_names(tmp_path):
    claim_folder(tmp_path, {"task": "svamp"}, "results.json", "checkpoint-*")
    (tmp_path / "lora" / "checkpoint-9").mkdir(parents=True)
    claim_folder(tmp_path, {"task": "svamp"}, "results.json", "checkpoint-*")
    with pytest.raises(ValueError, match="runs with task svamp, and not rte"):
        claim_folder(tmp_path, {"task": "rte"}, "results.json", "checkpoint-*")


def trainings(folder, script):
    return [Training(folder / name, script, [], lambda _: False) for name in ("a", "b", "c")]


def test_none_is_begun_after_one_that_failed(tmp_path, monkeypatch):
    begun = []

    def launch(command, _started):
        begun.append(command)
        return SimpleNamespace(returncode=1, stderr="Error: no such flag")

    monkeypatch.setattr("reslora_sd.runs.sweep.launch", launch)
    with pytest.raises(RuntimeError, match="no such flag"):
        run_all(trainings(tmp_path, tmp_path / "train.py"))
    assert len(begun) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once")
def test_sigterm_ends_the_trainings_with_the_sweep(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, sys, time\npathlib.Path(sys.argv[2] + '.begun').touch()\ntime.sleep(60)\n"
        "pathlib.Path(sys.argv[2] + '.done').touch()\n"
    )

    def stop():
        while len(list(tmp_path.glob("*.begun"))) < 2:
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    stopper, started = threading.Thread(target=stop, daemon=True), time.monotonic()
    stopper.start()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run_all(trainings(tmp_path, script), at_once=2)
    assert time.monotonic() - started < 50 and len(list(tmp_path.glob("*.begun"))) == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def working(folder, done, seconds=0.0, status=None):
    """In place of `launch`: notes the run as begun, and makes what says that it is done."""
    begun = []

    def launch(command, _started, environment=None):
        name = command[-1].rpartition("/")[2]
        begun.append((name, list(command), environment))
        time.sleep(seconds)
        if (status or {}).get(name):
            return SimpleNamespace(returncode=status[name], stderr=f"Error: {name} is broken")
        (folder / f"{name}.{done}").touch()
        return SimpleNamespace(returncode=0, stderr="")

    return launch, begun


def named(folder, names="abc"):
    return [
        Training(folder / name, folder / "train.py", [], lambda one: one.with_name(f"{one.name}.done").exists())
        for name in names
    ]


def test_two_sweeps_at_once_share_the_work_and_train_nothing_twice(tmp_path, monkeypatch):
    launch, begun = working(tmp_path, "done", seconds=0.15)
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", launch)
    sweeps = [threading.Thread(target=run_all, args=(named(tmp_path, "abcdef"),)) for _ in range(2)]
    started = time.monotonic()
    for one in sweeps:
        one.start()
    for one in sweeps:
        one.join()
    assert sorted(name for name, *_ in begun) == list("abcdef")
    assert all((tmp_path / f"{name}.done").exists() for name in "abcdef") and time.monotonic() - started < 10
    assert not list(tmp_path.glob(".*.lock"))


def test_the_others_go_on_after_one_that_failed_where_that_is_asked(tmp_path, monkeypatch):
    launch, begun = working(tmp_path, "done", status={"a": 1})
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", launch)
    (failed,) = run_all(named(tmp_path), launching=Launching(keep_going=True))
    assert [name for name, *_ in begun] == ["a", "b", "c"]
    assert failed.training.folder == tmp_path / "a" and "a is broken" in failed.said


def test_a_launcher_gets_the_script_and_each_process_a_gpu_of_its_own(tmp_path, monkeypatch):
    launch, begun = working(tmp_path, "done", seconds=0.1)
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", launch)
    run_all(named(tmp_path, "abcd"), 2, Launching(["accelerate", "launch"], ["3", "5"]))
    assert all(command[:3] == ["accelerate", "launch", str(tmp_path / "train.py")] for _, command, _ in begun)
    assert sorted({environment["CUDA_VISIBLE_DEVICES"] for *_, environment in begun}) == ["3", "5"]
    run_all([*named(tmp_path, "e")])
    assert begun[-1][2] is None and begun[-1][1][0] == sys.executable
