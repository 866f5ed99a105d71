"""Reading run folders: whole ones, and every way in which one can be damaged."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from app.synthetic import make_run
from reslora_sd.runs.reader import find_runs, read_run
from reslora_sd.runs.run import PictureKey, planned_steps
from tests.forked import launch
from tests.scripts import SCRIPTS
from tests.texts import save_small_llama, write_svamp


@pytest.fixture
def made_up(tmp_path):
    """A LoRA run of 20 steps with pictures of two prompts at every fifth."""
    return make_run(tmp_path / "lora", "lora", steps=20, every=5, side=16)


def make_old(path, seconds=3600):
    """Sets the times of a run, or of one file of it, back."""
    then = time.time() - seconds
    for one in [path, *path.rglob("*")]:
        os.utime(one, (then, then))


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_a_whole_run_is_read_without_a_note(made_up):
    run = read_run(made_up)
    assert (run.method, run.state, run.last_step, run.steps) == ("lora", "finished", 20, 20)
    assert not run.notes and not run.warnings
    assert len(run.pictures) == 8 and run.prompts() == ["cat face", "rocket"]
    assert run.pictures[PictureKey("rocket", 42, "unmerged", 15)].file == "step-000015/unmerged-01-42.png"


def test_a_run_that_is_being_written_shows_what_there_is(made_up):
    (made_up / "merge_report.json").unlink()
    log = made_up / "log.jsonl"
    log.write_text("\n".join(lines_of(log)[:9]) + '\n{"step": 10, "lo', encoding="utf-8")
    run = read_run(made_up)
    assert (run.state, run.last_step) == ("being written", 9)
    assert run.notes == ["The last line of log.jsonl is cut off, or still being written; left out."]


def test_a_run_that_was_cut_off_says_after_which_step(made_up):
    (made_up / "merge_report.json").unlink()
    log = made_up / "log.jsonl"
    log.write_text("\n".join(lines_of(log)[:9]) + "\n", encoding="utf-8")
    make_old(made_up)
    run = read_run(made_up)
    assert run.state == "cut off" and "The run was cut off after step 9 of 20." in run.notes


def test_missing_steps_broken_lines_and_rows_of_the_wrong_kind_are_told_and_left_out(made_up):
    log = made_up / "log.jsonl"
    lines = lines_of(log)
    lines[3] = '{"step": 4, "loss": '
    lines[6] = "[1, 2]"
    lines[8] = '{"loss": 1.0}'
    lines[10] = '{"step": 11, "loss": NaN, "grad_norm": "high", "seconds": 1e999}'
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = read_run(made_up)
    assert [row["step"] for row in run.log] == [1, 2, 3, 5, 6, 8, *range(10, 21)]
    assert run.log[7] == {"step": 11}
    text = " ".join(run.notes)
    assert "log.jsonl, line 4 is broken" in text and "line 7 is broken" in text and "line 9: no step" in text
    assert "lacks 3 steps between its first and last, such as step 4" in text


def test_pictures_that_are_not_there_and_rows_without_a_prompt_are_told(made_up):
    (made_up / "validation" / "step-000010" / "unmerged-00-42.png").unlink()
    with (made_up / "validation" / "index.jsonl").open("a") as file:
        file.write('{"step": 20, "seed": 1, "file": "x.png"}\n')
    run = read_run(made_up)
    assert len(run.pictures) == 7
    text = " ".join(run.notes)
    assert "1 pictures of index.jsonl are not there" in text and "line 9: step, prompt, seed or file" in text
    assert "1 steps lack some of their 2 pictures: 10." in text


@pytest.mark.parametrize("file", ["../../secret.png", "/etc/passwd", "step-000005/../../../secret.png"])
def test_files_outside_the_run_are_refused_and_told(made_up, file):
    (made_up.parent.parent / "secret.png").write_bytes(b"secret")
    row = {"step": 20, "prompt": "cat face", "seed": 7, "merge_approach": "unmerged", "file": file}
    with (made_up / "validation" / "index.jsonl").open("a") as index:
        index.write(json.dumps(row) + "\n")
    run = read_run(made_up)
    assert not any(key.seed == 7 for key in run.pictures)
    assert any("outside the run" in note for note in run.notes)


def test_pictures_that_repeat_byte_for_byte_raise_a_warning(made_up):
    index = made_up / "validation" / "index.jsonl"
    rows = [json.loads(line) for line in lines_of(index)]
    for row in rows:
        if row["prompt"] == "rocket":
            row["sha256"] = "f" * 64
    index.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (warning,) = read_run(made_up).warnings
    assert warning.startswith('3 of 8 unmerged pictures repeat an earlier step byte for byte ("rocket", seed 42')
    assert "The adapter is not active" in warning


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", b'{"method": 3, "arguments": 4}', b"{" * 5000])
def test_whatever_run_json_holds_the_rest_is_shown(made_up, content):
    (made_up / "run.json").write_bytes(content)
    (made_up / "merge_report.json").write_bytes(content)
    run = read_run(made_up)
    assert any("run.json" in note for note in run.notes)
    assert len(run.log) == 20 and len(run.pictures) == 8


def test_a_folder_that_holds_no_run_says_so(tmp_path):
    run = read_run(tmp_path)
    assert (
        run.state == "no run" and run.notes[0] == f"{tmp_path} holds no run: neither run.json nor a log nor pictures."
    )
    assert read_run(tmp_path / "nowhere").state == "no run"


def test_an_old_run_without_memory_norms_or_real_pictures_is_read(made_up):
    log = made_up / "log.jsonl"
    rows = [json.loads(line) for line in lines_of(log)]
    log.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "memory"}) + "\n" for row in rows))
    run = read_run(made_up)
    assert not run.notes and "memory" not in run.log[0] and run.references == {}


def test_runs_are_found_below_a_folder(tmp_path):
    for name in ("b", "a/c", ".hidden", "a/d/e/too-deep"):
        make_run(tmp_path / name, "lora", steps=3, every=3, prompts=("x",), side=8)
    assert find_runs(tmp_path) == [tmp_path / "a" / "c", tmp_path / "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    assert find_runs(tmp_path / "nowhere") == [tmp_path / "nowhere"]


def overwrite(run, steps, done):
    """What a training leaves that was started in the folder of a run that had ended, and that was stopped."""
    make_old(run, 600)
    settings = json.loads((run / "run.json").read_text())
    settings |= {"steps": steps, "arguments": {"max_train_steps": steps}}
    (run / "run.json").write_text(json.dumps(settings))
    (run / "log.jsonl").write_text("".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in range(1, done + 1)))
    (run / "validation" / "index.jsonl").write_text("")


def test_the_report_of_a_run_that_was_overwritten_does_not_finish_the_new_one(made_up):
    overwrite(made_up, steps=30, done=2)
    run = read_run(made_up)
    assert (run.state, run.last_step, run.steps, run.report, run.exported) == ("being written", 2, 30, {}, "")
    assert not run.final(2)
    (note,) = run.notes
    assert note.startswith("merge_report.json is of an earlier run in this folder") and "2 of 30 steps" in note


def test_a_run_that_was_overwritten_and_stopped_was_cut_off(made_up):
    overwrite(made_up, steps=30, done=2)
    for name in ("run.json", "log.jsonl", "validation/index.jsonl"):
        make_old(made_up / name, 300)
    make_old(made_up / "merge_report.json", 600)
    os.utime(made_up, (time.time() - 300,) * 2)
    run = read_run(made_up)
    assert run.state == "cut off" and "The run was cut off after step 2 of 30." in run.notes


def test_a_finished_run_stays_finished_when_it_is_copied_or_its_log_is_damaged(made_up):
    make_old(made_up / "merge_report.json", 600)  # a copy can have any times
    assert read_run(made_up).state == "finished"
    os.utime(made_up / "merge_report.json")
    log = made_up / "log.jsonl"
    log.write_text("\n".join(lines_of(log)[:9]) + "\n", encoding="utf-8")
    run = read_run(made_up)
    assert run.state == "finished" and run.notes == ["log.jsonl ends at step 9, and the run has 20."]


@pytest.fixture(scope="module", params=["--max_steps 6", pytest.param("--num_train_epochs 1", marks=pytest.mark.slow)])
def text_run(request, tmp_path_factory):
    """A run of six steps, as the text script leaves it, of a small random Llama."""
    folder = tmp_path_factory.mktemp("text")
    flags = {
        "--model": save_small_llama(folder / "llama"),
        "--train_file": write_svamp(folder / "train.jsonl", 24),
        "--test_file": write_svamp(folder / "test.jsonl", 6, first=100),
        "--output_dir": folder / "run",
        "--per_device_train_batch_size": 4,
        "--evaluate": "none",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    command = [sys.executable, str(SCRIPTS / "train_nlg_reslora.py"), *words, "--use_cpu", *request.param.split()]
    done = launch(command, lambda process: None)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_text_run_that_has_results_is_finished(text_run):
    run = read_run(text_run)
    assert (run.state, run.method, run.last_step, run.steps) == ("finished", "reslora_is", 6, 6)
    assert run.results["steps"] == 6 and run.notes == []
    make_old(text_run)
    assert read_run(text_run).state == "finished"


def test_a_text_run_without_results_was_cut_off(text_run, tmp_path):
    folder = Path(shutil.copytree(text_run, tmp_path / "run"))
    (folder / "results.json").unlink()
    make_old(folder)
    run = read_run(folder)
    assert run.state == "cut off" and run.notes == ["The run was cut off after step 6 of 6."]


@pytest.mark.parametrize(
    ("settings", "results", "steps"),
    [
        ({"steps": 5, "arguments": {"max_train_steps": 9}}, {}, 5),
        ({"arguments": {"max_train_steps": 9}}, {}, 9),
        ({"arguments": {"max_steps": 7}}, {"steps": 6}, 7),
        ({"arguments": {"max_steps": -1, "num_train_epochs": 2.0}}, {"steps": 6}, 6),
        ({"steps": "5", "arguments": [9]}, {"steps": None}, None),
    ],
)
def test_steps_are_known_by_whatever_file_says_them(settings, results, steps):
    assert planned_steps(settings, results) == steps
