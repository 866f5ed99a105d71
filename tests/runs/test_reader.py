"""Reading run folders: whole ones, and every way in which one can be damaged."""

import json
import os
import time

import pytest
from app.run import Key
from app.runs import find_runs, read_run

from app.library import Library
from app.synthetic import make_run


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_a_whole_run_is_read_without_a_note(made_up):
    run = read_run(made_up)
    assert (run.method, run.state, run.last_step, run.steps) == ("lora", "finished", 20, 20)
    assert not run.notes and not run.repeated
    assert len(run.pictures) == 8 and run.prompts() == ["cat face", "rocket"]
    assert run.pictures[Key("rocket", 42, "unmerged", 15)].file == "step-000015/unmerged-01-42.png"


def test_a_real_run_is_read_without_a_note(real_runs):
    for method, path in real_runs.items():
        run = read_run(path)
        assert (run.method, run.state, run.last_step, run.notes) == (method, "finished", 4, [])
        assert run.checkpoints == [2, 4] and "red apple" in run.real
        assert {"loss", "grad_norm", "seconds", "memory"} <= run.log[0].keys() and "validation_loss" in run.log[-1]


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
    old = time.time() - 3600
    for path in [made_up, *made_up.rglob("*")]:
        os.utime(path, (old, old))
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
    (warning,) = read_run(made_up).repeated
    assert warning.startswith('3 of 8 unmerged pictures repeat an earlier step byte for byte ("rocket", seed 42')
    assert "The adapter is not active" in warning


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", b'{"method": 3, "arguments": 4}', b"{" * 5000])
def test_whatever_run_json_holds_the_rest_is_shown(made_up, content):
    (made_up / "run.json").write_bytes(content)
    (made_up / "merge_report.json").write_bytes(content)
    run = read_run(made_up)
    assert run.notes and len(run.log) == 20 and len(run.pictures) == 8


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
    assert not run.notes and "memory" not in run.log[0] and run.real == {}


def test_runs_are_found_below_a_folder_and_named_by_method(made_up_pair, tmp_path):
    assert find_runs(tmp_path) == sorted(made_up_pair)
    make_run(tmp_path / "again" / "second", "lora", steps=3, every=3, prompts=("x",), side=8)
    names = Library([tmp_path]).names()
    assert set(names) == {"lora", f"lora ({tmp_path.name}/lora)", "reslora_is"}
    assert names["lora"] == tmp_path / "again" / "second"


def test_a_run_is_read_again_only_when_its_files_change(made_up):
    library = Library([made_up])
    before = library.get(["lora"])["lora"]
    assert library.get(["lora"])["lora"] is before
    state = library.state()
    with (made_up / "log.jsonl").open("a") as file:
        file.write('{"step": 21, "loss": 0.4}\n')
    assert library.state() != state
    assert library.get(["lora"])["lora"].last_step == 21
