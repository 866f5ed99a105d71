"""Text runs that are stopped, killed, damaged, or started twice."""

import json
import os
import shutil
import signal

import pytest
import torch

from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.lock import one_writer
from reslora_sd.text.arguments import GENERATION
from reslora_sd.text.trainer import ResLoRATrainer
from tests.pickled import publish_anew, put_pickle
from tests.snapshots import differences, snapshot
from tests.texts import save_small_llama, write_svamp
from train_scripts import train_nlg_reslora


class Killed(BaseException):
    """Ends a training where nothing is prepared for it, as a kill would."""


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    paths = {
        "--model": save_small_llama(folder / "llama"),
        "--train_file": write_svamp(folder / "train.jsonl", 24),
        "--test_file": write_svamp(folder / "test.jsonl", 4, first=100),
    }
    flags = """--method reslora_ms --max_steps 5 --per_device_train_batch_size 4 --learning_rate 0.02 --save_steps 2
    --lora_dropout 0.1 --calibration_samples 8 --save_total_limit 2 --use_cpu""".split()

    def run(output, *more):
        words = [*(str(word) for pair in paths.items() for word in pair), *flags, "--output_dir", str(output)]
        train_nlg_reslora.main(GENERATION.parse([*words, *map(str, more)]))
        return output

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture
def finished(straight, tmp_path):
    return shutil.copytree(straight, tmp_path / "run")


MOMENTS = {
    "between a log line and its checkpoint": (RunFolder, "log", 4),
    "in the middle of a checkpoint": (ResLoRATrainer, "_save", 2),
    "before a written checkpoint gets its name": (RunFolder, "add_checkpoint", 3),
    "before results.json": (RunFolder, "finish", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_the_moment_a_resumed_run_is_the_straight_one(train, straight, tmp_path, monkeypatch, moment):
    owner, name, call = MOMENTS[moment]
    original, calls = getattr(owner, name), []

    def kill(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, kill)
        train(tmp_path / "run")
    train(tmp_path / "run", "--resume_from_checkpoint", "latest")
    assert differences(straight, tmp_path / "run") == []


def test_a_run_says_how_many_steps_it_is_to_have(straight):
    """Without them, the page takes a finished run for one that was cut off."""
    assert json.loads((straight / "run.json").read_text())["steps"] == 5


def test_resuming_a_finished_run_changes_nothing(train, straight, finished):
    train(finished, "--resume_from_checkpoint", "latest")
    assert differences(straight, finished) == []


def test_a_training_that_is_asked_to_stop_leaves_a_checkpoint(train, straight, tmp_path, monkeypatch, capsys):
    log = RunFolder.log

    def log_then_ask(self, **row):
        log(self, **row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", log_then_ask)
        run = train(tmp_path / "run")
    assert "Stopped after step 3 of 5" in capsys.readouterr().out
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert not (run / "results.json").exists() and not (run / "peft").exists()
    train(run, "--resume_from_checkpoint", "latest")
    assert differences(straight, run) == []


@pytest.mark.parametrize(
    "part", ["rng_state.pth", "optimizer.pt", "scheduler.pt", "trainer_state.json", "checkpoint.json"]
)
def test_a_checkpoint_without_a_part_is_refused_by_its_name(train, finished, part):
    (finished / "checkpoint-5" / part).unlink()
    before = snapshot(finished)
    with pytest.raises(ValueError, match=rf"checkpoint-5 can't be resumed from\. .*{part}.*\(checkpoint-4\)"):
        train(finished, "--resume_from_checkpoint", "latest")
    assert snapshot(finished) == before


def test_nothing_in_a_checkpoint_of_a_stranger_is_executed(train, finished, tmp_path):
    """What is no pickle must be read as what it is: as JSON, or as safetensors."""
    honest, marker = finished / "checkpoint-5", tmp_path / "marker"
    read = ["rng_state.pth", "optimizer.pt", "scheduler.pt", "trainer_state.json", "reslora_adapter.safetensors"]
    for number, name in enumerate([*read, "scaler.pt", "optimizer.bin", "pytorch_model.bin"]):
        strange = shutil.copytree(honest, tmp_path / str(number) / "checkpoint-5")
        put_pickle(strange, name, marker, with_torch=bool(number % 2))
        with pytest.raises(ValueError, match=name):
            train(tmp_path / "other", "--resume_from_checkpoint", strange, "--max_steps", 6)
        assert not marker.exists() and not (tmp_path / "other" / "run.json").exists(), name


@pytest.mark.parametrize("part", ["optimizer.pt", "scheduler.pt"])
def test_a_part_of_another_form_is_refused_in_a_sentence(train, finished, part):
    torch.save([], finished / "checkpoint-5" / part)
    publish_anew(finished / "checkpoint-5")
    before = snapshot(finished)
    with pytest.raises(ValueError, match=r"checkpoint-5 can't be resumed from\. Its files are not those"):
        train(finished, "--resume_from_checkpoint", "latest", "--max_steps", 6)
    assert snapshot(finished) == before


def test_the_limit_removes_the_oldest_of_the_path_that_was_taken(train, finished):
    train(finished, "--resume_from_checkpoint", "checkpoint-4", "--save_total_limit", 1, "--max_steps", 6)
    assert [path.name for path in finished.glob("checkpoint-*")] == ["checkpoint-6"]
    assert [row["step"] for row in read_jsonl(finished / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_new_rate_counts_from_the_checkpoint_on(train, finished):
    train(finished, "--resume_from_checkpoint", "checkpoint-4", "--learning_rate", 0.01, "--evaluate", "none")
    assert [row["lr"] for row in read_jsonl(finished / "log.jsonl")] == [0.02] * 4 + [0.01]


def test_a_refused_resume_leaves_the_run_as_it_was(train, straight, finished):
    with pytest.raises(ValueError, match=r"other settings: --rank was 4 and is 2; --max_train_samples was left out"):
        train(finished, "--resume_from_checkpoint", "checkpoint-4", "--rank", 2, "--max_train_samples", 9)
    with pytest.raises(ValueError, match=r"--per_device_train_batch_size was 4 and is 2; --seed was 42 and is 7\."):
        flags = ("--seed", 7, "--per_device_train_batch_size", 2)
        train(finished, "--resume_from_checkpoint", "checkpoint-4", *flags)
    with pytest.raises(ValueError, match=r"--optim was .* and is \"adafactor\"; --data_seed was left out and is 7\."):
        train(finished, "--resume_from_checkpoint", "checkpoint-4", "--optim", "adafactor", "--data_seed", 7)
    assert differences(straight, finished) == []


def test_a_second_training_in_the_folder_is_refused(train, straight, finished):
    with one_writer(finished), pytest.raises(ValueError, match="another training writes there"):
        train(finished, "--overwrite_output_dir")
    assert differences(straight, finished) == []


def test_damaged_log_lines_are_no_traceback(train, finished):
    lines = (finished / "log.jsonl").read_text().splitlines()
    lines[:2] = ["[]", '{"step": 2, "seconds": "long", "memory": null}']
    (finished / "log.jsonl").write_text("\n".join(lines) + "\n{")
    train(finished, "--resume_from_checkpoint", "latest")
    assert json.loads((finished / "results.json").read_text())["seconds_per_step"] > 0


def test_overwriting_leaves_no_weights_of_the_old_run(train, finished, monkeypatch):
    monkeypatch.setattr(RunFolder, "log", lambda *_, **__: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(finished, "--overwrite_output_dir")
    assert snapshot(finished).keys() == {"run.json", "log.jsonl", "validation/index.jsonl"}
