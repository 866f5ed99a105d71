"""Every flag of a resumed run is one that may change, and does, or one that is refused by its name."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from diffusers.optimization import get_scheduler

from reslora_sd.assets import DEFAULT_MODEL
from reslora_sd.diffusion.arguments import make_parser, parse_settings, to_arguments
from reslora_sd.diffusion.resuming import CHANGEABLE, DATA_PATHS, FIXED, MODEL_PATHS, breaks
from reslora_sd.diffusion.settings import DataSettings
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.training.resuming import check_unchanged as compare
from reslora_sd.training.resuming import own_rates
from tests.snapshots import snapshot

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def rates(run):
    return [row["lr"] for row in read_jsonl(run / "log.jsonl")]


def check_unchanged(folder, before, settings):
    """The comparison of a command with a run.json that says `before`."""
    (folder / "run.json").write_text(json.dumps({"arguments": before}))
    compare(RunFolder(folder), folder / "checkpoint-2", to_arguments(settings), breaks)


def test_every_flag_is_in_one_class():
    flags = {action.dest for action in make_parser()._actions} - {"help", "config"}
    assert flags == FIXED | CHANGEABLE and not FIXED & CHANGEABLE


def test_every_place_of_data_is_compared_as_a_place_and_checked_by_the_page():
    places = {field.name for field in fields(DataSettings) if field.name.endswith(("_dir", "_config", "_file"))}
    assert places == set(DATA_PATHS) and {*DATA_PATHS, *MODEL_PATHS} <= FIXED


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_flag_that_would_break_the_run_is_refused_with_both_values(name, tmp_path):
    now = to_arguments(parse_settings([]))
    said = "left out" if now[name] is None else json.dumps(now[name])
    with pytest.raises(ValueError) as caught:
        check_unchanged(tmp_path, {**now, name: "another"}, parse_settings([]))
    assert f'checkpoint-2 is of a run with other settings: --{name} was "another" and is {said}. Resume' in str(
        caught.value
    )


def test_all_other_flags_may_change_and_those_of_a_later_version_are_not_compared(tmp_path):
    now = to_arguments(parse_settings([]))
    check_unchanged(tmp_path, {**now, **dict.fromkeys(CHANGEABLE, "another")}, parse_settings([]))
    check_unchanged(tmp_path, {name: value for name, value in now.items() if name in CHANGEABLE}, parse_settings([]))


def test_the_same_folder_by_another_name_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = to_arguments(parse_settings(["--train_data_dir", "pictures"]))
    check_unchanged(tmp_path, before, parse_settings(["--train_data_dir", str(tmp_path / "pictures")]))
    moved = {
        **to_arguments(parse_settings([])),
        "pretrained_model_name_or_path": "/elsewhere/reslora_sd/assets/tiny-sd",
    }
    check_unchanged(tmp_path, moved, parse_settings([]))
    assert DEFAULT_MODEL.parts[-3:] == ("reslora_sd", "assets", "tiny-sd")


def test_only_a_run_in_fp16_goes_on_in_fp16(tmp_path):
    half = parse_settings(["--mixed_precision", "fp16"])
    check_unchanged(tmp_path, to_arguments(half), half)
    check_unchanged(tmp_path, to_arguments(half), parse_settings(["--mixed_precision", "bf16"]))
    with pytest.raises(ValueError, match='--mixed_precision was left out and is "fp16"'):
        check_unchanged(tmp_path, to_arguments(parse_settings([])), half)


def test_a_new_rate_counts_from_the_checkpoint_on_and_the_schedules_place_stays(train):
    flags = ("--lr_scheduler", "linear", "--max_train_steps", 6, "--checkpointing_steps", 2)
    run = train(*flags, "--learning_rate", 1e-2)
    train(*flags, "--learning_rate", 1e-3, "--resume_from_checkpoint", "checkpoint-2")
    assert rates(run)[:2] == pytest.approx([1e-2, 1e-2 * 5 / 6])
    assert rates(run)[2:] == pytest.approx([1e-3 * left / 6 for left in (4, 3, 2, 1)])
    assert json.loads((run / "run.json").read_text())["arguments"]["learning_rate"] == 1e-3


def test_pictures_steps_and_checkpoints_may_change_and_do(train):
    run = train("--checkpointing_steps", 2, "--max_train_steps", 2)
    train(
        *("--resume_from_checkpoint", "latest", "--max_train_steps", 5, "--checkpointing_steps", 1),
        *("--checkpoints_total_limit", 2, "--validation_prompts", "colour 1", "--validation_steps", 4),
    )
    assert len(rates(run)) == 5
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    assert {row["step"] for row in read_jsonl(run / "validation" / "index.jsonl")} == {4, 5}


def test_a_refused_flag_changes_nothing_and_all_of_them_are_named(train, tmp_path, caplog):
    run = train("--max_train_steps", 1)
    before = snapshot(run)
    with pytest.raises(ValueError, match=r"--seed was 42 and is 7; --train_batch_size was 2 and is 4\."):
        train("--resume_from_checkpoint", "latest", "--seed", 7, "--train_batch_size", 4)
    with pytest.raises(ValueError, match=r"--train_data_dir was .*pictures\" and is .*others"):
        train("--resume_from_checkpoint", "latest", data=tmp_path / "others")
    assert snapshot(run) == before
    (run / "run.json").write_text("{}")
    train("--resume_from_checkpoint", "latest", "--max_train_steps", 2)
    assert len(rates(run)) == 2 and "run.json has no arguments. Give the flags" in caplog.text


def test_latest_starts_a_run_where_there_is_none(train, caplog):
    flags = ("--resume_from_checkpoint", "latest", "--checkpointing_steps", 1)
    run = train(*flags, "--max_train_steps", 1)
    assert "has no checkpoint to resume from: the training starts at its first step" in caplog.text
    caplog.clear()
    train(*flags, "--max_train_steps", 2)  # the same command goes on
    assert len(rates(run)) == 2 and "starts at its first step" not in caplog.text
    for number in (1, 2):
        (run / f"checkpoint-{number}").rename(run / f"kept-{number}")
    before = snapshot(run)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to resume from\. .*--overwrite_output_dir replaces it"):
        train(*flags, "--max_train_steps", 3)
    assert snapshot(run) == before


def test_a_loaded_optimizer_keeps_its_moments_and_takes_the_new_settings():
    def made(rate, decay):
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([weight], lr=rate, betas=(decay, 0.99), weight_decay=decay)
        return weight, optimizer, get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=10)

    weight, old, old_schedule = made(0.1, 0.5)
    for _ in range(3):
        weight.grad = torch.ones(2)
        old.step()
        old_schedule.step()
    _, new, new_schedule = made(0.2, 0.25)
    with own_rates(new, new_schedule):
        new.load_state_dict(old.state_dict())
        new_schedule.load_state_dict(old_schedule.state_dict())
    (group,) = new.param_groups
    assert group["betas"] == (0.25, 0.99) and group["weight_decay"] == 0.25
    assert new_schedule.last_epoch == 3 and new.state_dict()["state"][0]["step"] == 3
    expected = 2 * old_schedule.get_last_lr()[0]
    assert group["lr"] == new_schedule.get_last_lr()[0] == pytest.approx(expected)
    new.step()
    new_schedule.step()
    old_schedule.step()
    assert new_schedule.get_last_lr()[0] == pytest.approx(2 * old_schedule.get_last_lr()[0])
