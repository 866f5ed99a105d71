"""`--save_lora_steps`: LoRAs on the way are the merges of those steps, and training doesn't notice them."""

from __future__ import annotations

import errno

import pytest
import torch

from reslora_sd import PlainLoRA, load_reslora, merge
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.failures import NoSpaceError
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.names import KOHYA_KEY
from reslora_sd.runs.reader import read_run
from tests.unets import small_unet

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
EVERY_2 = ("--save_lora_steps", 2, "--checkpointing_steps", 2)
NAMED = {KOHYA_KEY: "run.safetensors"}


def test_training_is_the_same_bit_for_bit_with_and_without_and_the_few_pictures_are_told(train_only, capsys):
    flags = ("--method", "reslora_ms", "--lora_dropout", 0.1, "--calibration_samples", 6)
    without, run = train_only(*flags, output="without"), train_only(*flags, *EVERY_2)
    assert [row["loss"] for row in read_jsonl(run / "log.jsonl")] == [
        row["loss"] for row in read_jsonl(without / "log.jsonl")
    ]
    one, two = (load_tensors(place / "checkpoint-4/reslora_adapter.safetensors")[0] for place in (without, run))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (without / "loras").exists()
    assert PlainLoRA.load(run / "loras" / "step-000002").approach == "least_squares"
    assert "merged by least_squares on 6 noisy pictures in " in capsys.readouterr().out
    assert read_run(run).loras == [2, 4] and read_run(without).loras == []


def test_the_files_are_the_merge_of_their_step_in_both_forms_and_say_so(train_only, capsys):
    run = train_only("--method", "reslora_bs", "--save_precision", "float32", *EVERY_2)
    for step in (2, 4):
        unet = small_unet()
        expected = merge(load_reslora(unet, run / f"checkpoint-{step}" / "reslora_adapter.safetensors"))
        folder = run / "loras" / f"step-00000{step}"
        for name in ("pytorch_lora_weights.safetensors", f"run-step00000{step}.safetensors"):
            found = PlainLoRA.load(folder / name)
            assert found.approach == "exact" and found.blocks.keys() == expected.blocks.keys()
            for site, block in found.blocks.items():
                torch.testing.assert_close(block.delta_weight(), expected.blocks[site].delta_weight())
            assert load_tensors(folder / name)[1]["ss_steps"] == str(step)
        assert len(list(folder.iterdir())) == 2
    assert f"Step 2: {run / 'loras' / 'step-000002'}, merged by exact in " in capsys.readouterr().out


def test_a_lora_on_the_way_takes_the_same_reading_of_eq_13_as_the_one_at_the_end(train_only):
    by_weights = ("--method", "reslora_ms", "--merge_approach", "weights", "--save_precision", "float32", *EVERY_2)
    one = train_only(*by_weights, output="weights")
    other = train_only(*by_weights, "--alpha_from", "inputs")
    first, second = (PlainLoRA.load(run / "loras" / "step-000002").blocks for run in (one, other))
    assert any(not torch.equal(first[site].lora_A, second[site].lora_A) for site in first)


def test_a_full_disk_ends_the_run_in_a_sentence_and_leaves_no_half_file(train_only, monkeypatch, tmp_path):
    import reslora_sd.files.storage as storage

    save, calls = storage.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        save(tensors, path, metadata)
        if "loras" in str(path) and "step-000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(NoSpaceError, match="Resume from checkpoint-2"):
        train_only("--method", "lora", *EVERY_2)
    run = tmp_path / "run"
    assert not list(run.rglob("*.tmp")) and not list((run / "loras" / "step-000004").iterdir())
    assert read_run(run).loras == [2]


def test_only_what_a_run_writes_is_removed(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin(NAMED)
    for step in (1, 2, 3):
        folder, name = run.make_lora_folder(step)
        for file in ("pytorch_lora_weights.safetensors", name):
            (folder / file).write_text("a LoRA")
    theirs = [run.path / "loras" / "step-000002" / "mine.safetensors", run.path / "loras" / "notes.txt"]
    for one in theirs:
        one.write_text("theirs")
    left = run.path / "loras" / "step-000001" / ".x.safetensors.0123abcd.tmp"
    left.write_text("half")
    run.discard_from(1)
    there = sorted(path.relative_to(run.path / "loras").as_posix() for path in (run.path / "loras").rglob("*.*"))
    ours = ["step-000001/pytorch_lora_weights.safetensors", "step-000001/run-step000001.safetensors"]
    assert there == ["notes.txt", *ours, "step-000002/mine.safetensors"]
    run.begin(NAMED)
    assert all(one.read_text() == "theirs" for one in theirs) and not (run.path / "loras" / "step-000001").exists()
