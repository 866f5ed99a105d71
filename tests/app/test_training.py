"""Trainings that the page starts: flags, states, stopping, and that their state is in the folder alone."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from app import progress, training
from app.training import find_process, last_message, resume, start, status, stop, trainings
from app.training_request import TrainingRequest
from reslora_sd.diffusion.arguments import parse_settings, to_arguments
from reslora_sd.runs.reader import read_run


@pytest.fixture
def idle(monkeypatch, tmp_path):
    """A script that writes what a run has, and then waits until it is asked to stop."""
    script = tmp_path / "scripts" / "idle.py"
    script.parent.mkdir()
    script.write_text(
        """
import json, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
print("Error: from an earlier try")
(out / "run.json").write_text(json.dumps({"method": sys.argv[2], "steps": 5}))
(out / "log.jsonl").write_text('{"step": 1, "loss": 0.5, "seconds": 0.1}\\n{"step": 2, "loss": 0.4, "seconds": 0.1}\\n')
def end(*_):
    (out / "checkpoint-2").mkdir()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    time.sleep(0.05)
"""
    )
    monkeypatch.setattr(training, "SCRIPT", script)
    home = tmp_path / "runs"
    yield home
    for child in training._started:
        child.kill()
        child.wait(timeout=20)
    for run in trainings(home):  # of a server that is gone
        left = find_process(run)
        if left is not None:
            left.kill()


def wait_for(state, run, seconds=20):
    for _ in range(int(seconds / 0.05)):
        found = status(read_run(run))
        if found.state == state:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{found} and not {state}")


def test_all_methods_get_equal_flags_but_for_method_and_folder(tmp_path):
    request = TrainingRequest("first", prompts=("--hub_token", "cat  face"), pictures=tmp_path, steps=7, rank=4)
    parsed = [
        to_arguments(parse_settings(request.flags(tmp_path / "first", method))) for method in ("lora", "reslora_is")
    ]
    different = {key for key in parsed[0] if parsed[0][key] != parsed[1][key]}
    assert different == {"method", "output_dir", "merge_approach"}
    assert parsed[0]["validation_prompts"] == ["--hub_token", "cat face"]  # a prompt that looks like a flag is none
    assert parsed[0]["max_train_steps"] == 7 and parsed[0]["train_data_dir"] == str(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../x"}, "The name is '../x'"),
        ({"name": ""}, "The name is ''"),
        ({"methods": ("dora",)}, "The methods are"),
        ({"methods": ()}, "The methods are"),
        ({"steps": 0}, "number of steps is 0"),
        ({"rank": 10_000}, "rank is 10000"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"model": "--push_to_hub"}, "base model is '--push_to_hub'"),
        ({"prompts": ("/etc/passwd.txt",)}, "none of them a file name"),
        ({"resolution": 30_000}, "Resolution is 30000"),
        ({"lr_scheduler": "--push_to_hub"}, "schedule is '--push_to_hub'"),
    ],
)
def test_a_request_that_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(TrainingRequest("first"), **change)


def test_two_trainings_run_beside_each_other_and_either_can_be_stopped(idle):
    lora, other = start(TrainingRequest("first"), idle)
    running = wait_for("running", lora)
    assert (running.step, running.steps) == (2, 5)
    assert running.detail == "loss 0.4000, 0.10 s a step, a few seconds left, merging included"
    wait_for("running", other)
    assert stop(lora)
    assert wait_for("stopped", lora).detail == "checkpoint-2 can be resumed"
    assert status(read_run(other)).state == "running" and not stop(lora)
    assert set(trainings(idle)) == {lora, other}
    with pytest.raises(training.Started):  # pressed a second time
        start(TrainingRequest("first"), idle)
    with pytest.raises(ValueError, match="such as first-2"):
        start(TrainingRequest("first", steps=7), idle)


def test_a_training_that_is_finishing_is_not_cut_off(idle):
    (run,) = start(TrainingRequest("first", methods=("lora",)), idle)
    wait_for("running", run)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 0.3, "seconds": 4.0}\n')
    assert wait_for("finishing", run).detail == "merging, measuring and drawing: about 30 s left"
    assert not stop(run) and find_process(run) is not None


def test_the_time_that_is_left_counts_pictures_between_steps_and_the_merge(made_up):
    run = read_run(made_up)
    began = (made_up / "run.json").stat().st_mtime
    os.utime(made_up / "log.jsonl", (began + 400, began + 400))  # 20 steps of half a second, and pictures
    run = dataclasses.replace(run, settings={**run.settings, "steps": 40})
    said = progress.tell(run, began - 50, 0)
    assert said.endswith("0.50 s a step, about 7 min left, merging included")  # 20 steps of 20 s, and 10 s
    assert progress.tell(run, began, 10).endswith("about 14 min left, merging included")  # it went on from step 10
    assert progress.say_time(7000) == "about 1.9 h"


def test_another_server_finds_and_stops_a_training_by_its_folder_alone(idle):
    (run,) = start(TrainingRequest("first", methods=("lora",)), idle)
    wait_for("running", run)
    code = "import sys; from pathlib import Path; from app.training import stop; sys.exit(not stop(Path(sys.argv[1])))"
    assert subprocess.run([sys.executable, "-c", code, str(run)], timeout=60).returncode == 0
    wait_for("stopped", run)


def test_a_training_outlives_the_server_that_started_it(idle, tmp_path):
    code = f"""
import sys
from pathlib import Path
from app import progress, training
from app.training_request import TrainingRequest
training.SCRIPT = Path({str(training.SCRIPT)!r})
training.start(TrainingRequest("first", methods=("lora",)), Path({str(idle)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    wait_for("running", idle / "first" / "lora")
    process = find_process(idle / "first" / "lora")
    assert process is not None and os.getsid(process.pid) != os.getsid(0)


def test_a_process_number_that_another_program_has_by_now_is_left_alone(tmp_path):
    run = tmp_path / "first" / "lora"
    run.mkdir(parents=True)
    me = psutil.Process()
    for about in (
        {"process": me.pid, "began": me.create_time() - 100, "flags": []},
        {"process": me.pid, "began": me.create_time(), "flags": []},  # the command isn't a training in this folder
        {"process": 2**22 + 1, "began": 0.0},
        {"process": "1", "began": None},
        {"process": -1, "began": 0},
    ):
        (run / "training.json").write_text(json.dumps(about))
        assert find_process(run) is None and not stop(run)


def test_a_training_that_fails_says_why(monkeypatch, tmp_path):
    script = tmp_path / "fail.py"
    script.write_text("print('loading')\nraise SystemExit('Error: --rank is silly.')\n")
    monkeypatch.setattr(training, "SCRIPT", script)
    (run,) = start(TrainingRequest("first", methods=("lora",)), tmp_path / "runs")
    assert wait_for("failed", run).detail == "Error: --rank is silly."
    assert last_message(tmp_path / "nowhere") == ""


def test_a_stopped_training_goes_on_and_a_running_one_does_not_start_twice(idle):
    (run,) = start(TrainingRequest("first", methods=("lora",)), idle)
    wait_for("running", run)
    with pytest.raises(ValueError, match="is running"):
        resume(run)
    stop(run)
    wait_for("stopped", run)
    (run / "checkpoint-2").rmdir()
    resume(run)
    wait_for("running", run)
    process = find_process(run)
    assert process is not None and process.cmdline()[-2:] == ["--resume_from_checkpoint", "latest"]
    with pytest.raises(ValueError, match="holds no settings of a training of this page"):
        resume(idle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_dir": "/elsewhere"}, "differ from a training's in output_dir"),
        ({"model": "--push_to_hub"}, "base model is '--push_to_hub'"),
        ({"model": ["--push_to_hub"]}, "setting model is"),
        ({"methods": ["lora", "lora"]}, "each once"),
        ({"methods": ["reslora_is"]}, "is of reslora_is, not of lora"),
        ({"methods": "lora"}, "setting methods is"),
        ({"steps": True}, "setting steps is True"),
        ({"seed": 2**70}, "seed is"),
        ({"learning_rate": float("inf")}, "setting learning_rate is None"),  # as JSON has no infinity
        ({"name": "../../elsewhere"}, "The name is"),
        ({"prompts": [1]}, "setting prompts is"),
        ({"resolution": "512"}, "setting resolution is"),
        ({"pictures": "/etc"}, "names /etc, which this page may not use"),
    ],
)
def test_a_file_with_other_settings_starts_nothing(idle, change, said):
    run = idle / "first" / "lora"
    run.mkdir(parents=True)
    settings = {**TrainingRequest("first").to_dict(), **change}
    (run / "training.json").write_text(json.dumps({"process": 1, "began": 0.0, "settings": settings}))
    with pytest.raises(ValueError, match=said):
        resume(run, may_read=lambda path: False)
    assert not (run / "train.log").exists()


def test_flags_in_a_file_are_never_run(idle):
    run = idle / "first" / "lora"
    run.mkdir(parents=True)
    (run / "training.json").write_text('{"flags": ["--output_dir", "/elsewhere", "--push_to_hub"]}')
    with pytest.raises(ValueError, match="holds no settings"):
        resume(run)


def test_a_run_goes_on_where_it_lies_whatever_its_file_says(idle):
    run = idle / "moved" / "lora"
    run.mkdir(parents=True)
    (run / "training.json").write_text(json.dumps({"settings": TrainingRequest("first").to_dict()}))
    resume(run)
    wait_for("running", run)
    assert not (idle / "first").exists()


@pytest.mark.parametrize("call", ["start", "resume"])
def test_of_two_that_press_at_once_one_starts(idle, call):
    request = TrainingRequest("first", methods=("lora",))
    run = idle / "first" / "lora"
    if call == "resume":
        run.mkdir(parents=True)
        (run / "training.json").write_text(json.dumps({"settings": request.to_dict()}))

    def press(_):
        try:
            start(request, idle) if call == "start" else resume(run)
        except (ValueError, training.Started) as error:
            return str(error)
        return "started"

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(press, range(4)))
    assert said.count("started") == 1, said
    assert len(training._started) == 1


def test_settings_survive_their_file(tmp_path):
    request = TrainingRequest("first", prompts=("a cat",), pictures=tmp_path, learning_rate=1)
    assert TrainingRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    before = {name: value for name, value in request.to_dict().items() if name != "max_timestep"}
    assert TrainingRequest.from_dict(before) == request  # a file of a page that had no such field


def test_what_the_page_sets_beyond_the_usual_reaches_the_script(tmp_path):
    extras: dict[str, Any] = {"resolution": 64, "lora_alpha": 8.0, "lr_scheduler": "cosine", "max_timestep": 500}
    found = to_arguments(
        parse_settings(dataclasses.replace(TrainingRequest("first"), **extras).flags(tmp_path, "lora"))
    )
    assert {name: found[name] for name in extras} == extras
