"""Beginning, resuming and replacing a run, on files that were damaged or are others'."""

import json
import random

import pytest
from PIL import Image

from reslora_sd.runs.contents import kohya_file
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.names import SHEET_FILES

FINISHED = (
    "merge_report.json",
    "results.json",
    "answers.jsonl",
    "reslora_adapter.safetensors",
    "trained_modules.safetensors",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights_kohya.safetensors",
    "peft/adapter_config.json",
    "fused/model.safetensors",
    *SHEET_FILES,
)


@pytest.fixture
def run(tmp_path):
    """Four steps with pictures, checkpoints after 2 and 4, and all that finishing writes."""
    run = RunFolder(tmp_path / "run")
    run.begin({"method": "lora", "steps": 4, "arguments": {"logging_dir": "logs"}})
    for step in range(5):
        if step:
            run.log(step=step, loss=0.5)
        draw(run, step, "unmerged")
        if step in (2, 4):
            (run.path / "written").mkdir()
            (run.path / "written" / "weights").write_text(str(step))
            run.add_checkpoint(run.path / "written", step, None)
    for approach in ("base", "exact"):
        draw(run, 4, approach)
    for name in FINISHED:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("of the end")
    return run


def draw(run, step, approach):
    run.add_picture(
        Image.new("RGB", (2, 2), (step, 0, 0)),
        step,
        f"{approach}-00-7.png",
        prompt="p",
        seed=7,
        merge_approach=approach,
    )


def files(run):
    return {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}


def test_what_came_after_a_step_is_dropped_with_all_that_finishing_writes(run):
    (run.path / "validation" / "step-000004" / ".unmerged-00-7.png.0123abcd.tmp").touch()
    (run.path / ".checkpoint-4.tmp").mkdir()
    run.discard_from(2)
    assert [row["step"] for row in read_jsonl(run.log_path)] == [1, 2]
    assert [(row["step"], row["merge_approach"]) for row in read_jsonl(run.index_path)] == [
        (0, "unmerged"),
        (1, "unmerged"),
        (2, "unmerged"),
    ]
    assert files(run) == {
        "run.json",
        "log.jsonl",
        "validation/index.jsonl",
        *(f"validation/step-00000{step}/unmerged-00-7.png" for step in (0, 1, 2)),
        "checkpoint-2/weights",
        "checkpoint-2/checkpoint.json",
    }
    assert not (run.path / "validation" / "step-000004").exists()
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_pictures_that_no_row_names_go(run):
    """A kill came between the picture and its row."""
    (run.path / "validation" / "step-000002" / "unmerged-01-7.png").touch()
    (run.path / "validation" / "step-000002" / "theirs.png").touch()
    run.discard_from(2)
    there = {path.name for path in (run.path / "validation" / "step-000002").iterdir()}
    assert there == {"unmerged-00-7.png", "theirs.png"}


def test_a_row_that_names_a_file_elsewhere_removes_nothing(run, tmp_path):
    (tmp_path / "precious.png").touch()
    rows = read_jsonl(run.index_path)
    for row, file in zip(
        rows, ("../../precious.png", "step-000001/../../../precious.png", "/etc/passwd"), strict=False
    ):
        row["file"] = file
    run.index_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.discard_from(0)
    assert (tmp_path / "precious.png").exists() and read_jsonl(run.index_path) == []


def test_beginning_removes_the_old_run_and_leaves_what_is_others(run):
    theirs = {"peft.txt", "data/log.jsonl", "validation/photo.png", "logs/theirs", "checkpoint-best/weights", "a.tmp"}
    for name in theirs:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("theirs")
    ours = (
        "logs/text2image-reslora/events.out.tfevents.1",
        "runs/Nov25/events.out.tfevents.2",
        "validation/real/00.png",
    )
    for name in (*ours, "validation/real.jsonl", ".run.json.0123abcd.tmp"):
        (run.path / name).parent.mkdir(exist_ok=True, parents=True)
        (run.path / name).write_text("ours")
    run.begin({"method": "reslora_is"})
    assert files(run) == theirs | {"run.json", "log.jsonl", "validation/index.jsonl"}
    assert json.loads((run.path / "run.json").read_text())["method"] == "reslora_is"
    assert run.log_path.read_text() == "" and not (run.path / "runs").exists()


@pytest.mark.parametrize("logging_dir", ["..", "/", "../other", 5, None])
def test_a_trackers_folder_elsewhere_stays(run, tmp_path, logging_dir):
    for place in (tmp_path, tmp_path / "other"):
        (place / "text2image-reslora").mkdir(parents=True)
    settings = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**settings, "arguments": {"logging_dir": logging_dir}}))
    run.begin({})
    assert (tmp_path / "text2image-reslora").is_dir() and (tmp_path / "other" / "text2image-reslora").is_dir()


def test_a_folder_without_a_run_loses_nothing(tmp_path):
    for name in ("peft/x", "fused/y", "logs/text2image-reslora/events", "pytorch_lora_weights.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("theirs")
    run = RunFolder(tmp_path)
    run.check(resume=False, overwrite=False)
    run.begin({})
    assert files(run) >= {"peft/x", "fused/y", "logs/text2image-reslora/events", "pytorch_lora_weights.safetensors"}


@pytest.mark.parametrize("left", ["run.json", "log.jsonl", "merge_report.json", "results.json", "checkpoint-2/x"])
def test_a_run_of_which_only_a_part_is_there_is_not_overwritten_unasked(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(ValueError, match="holds a run already"):
        RunFolder(tmp_path).check(resume=False, overwrite=False)
    RunFolder(tmp_path).check(resume=True, overwrite=False)
    RunFolder(tmp_path).check(resume=False, overwrite=True)


def test_a_kill_while_the_old_run_is_removed_leaves_a_folder_that_is_taken(run, monkeypatch):
    monkeypatch.setattr("reslora_sd.runs.contents.remove_pictures", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.begin({})
    assert not (run.path / "merge_report.json").exists()
    with pytest.raises(ValueError, match="holds a run already"):
        run.check(resume=False, overwrite=False)


def test_damaged_logs_of_a_resumed_run_are_no_traceback(run, caplog):
    """Of the 300 damages that were tried, 41 gave one."""
    honest = {path: path.read_bytes() for path in (run.log_path, run.index_path)}
    for seed in range(300):
        source = random.Random(seed)
        for path, content in honest.items():
            damaged = bytearray(content)
            for _ in range(source.randint(1, 9)):
                damaged[source.randrange(len(damaged))] = source.randrange(256)
            path.write_bytes(bytes(damaged[: source.randrange(len(damaged))]))
        run.discard_from(3)
        for row in run.log_rows():
            assert 0 <= row["step"] <= 3
        for row in run.pictures():
            assert 0 <= row["step"] <= 3 and isinstance(row["prompt"], str) and row["merge_approach"] == "unmerged"
    assert "left out" in caplog.text


@pytest.mark.parametrize("row", ["{}", '{"step": null}', '{"step": "2"}', '{"step": true}', '{"step": -1}', "3", "{"])
def test_broken_rows_are_told_once(run, caplog, row):
    for path in (run.log_path, run.index_path):
        path.write_text(f"{row}\n{row}\n{path.read_text()}")
    run.discard_from(2)
    assert len(caplog.records) == 2 and all("And 1 more like it" in record.message for record in caplog.records)
    caplog.clear()
    run.discard_from(2)
    assert not caplog.records


@pytest.mark.parametrize(
    ("recorded", "file"),
    [
        ("rex.safetensors", "rex.safetensors"),  # the folder was renamed
        (None, "pytorch_lora_weights_kohya.safetensors"),  # of an older version
        ("../rex.safetensors", "run.safetensors"),
        ("run.json", "run.safetensors"),
        (["rex.safetensors"], "run.safetensors"),
    ],
)
def test_the_lora_with_the_runs_name_is_found_and_goes_with_the_run(run, recorded, file):
    about = {"method": "lora"} if recorded is None else {"method": "lora", "kohya_file": recorded}
    (run.path / "run.json").write_text(json.dumps(about))
    (run.path.parent / "rex.safetensors").write_text("of others")
    for name in (file, "mine.safetensors"):
        (run.path / name).write_text("")
    assert kohya_file(run.path) == file
    run.discard_from(2)
    assert not (run.path / file).exists()
    assert (run.path / "mine.safetensors").exists() and (run.path.parent / "rex.safetensors").exists()
