"""The training script from end to end, on a tiny pipeline and, where a trained model matters, on the embedded one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.data import load_split
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs import names
from reslora_sd.runs.failures import DivergedError
from reslora_sd.runs.jsonl import read_jsonl
from tests.conftest import make_picture_folder
from tests.scripts import ROOT, SCRIPTS, free_port, load_script

SCRIPT = SCRIPTS / "train_text_to_image_reslora.py"
METHODS = tuple(names.METHODS)
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def weights(run, file="reslora_adapter.safetensors"):
    return load_tensors(run / file)[0]


def losses(run):
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def assert_same(one, two):
    assert losses(one) == losses(two)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in METHODS if one not in ("reslora_is", "reslora_frozen")),
        "reslora_is",
        "reslora_frozen",
    ],
)
def test_a_run_leaves_what_the_design_says(train, method):
    flags = ("--method", method, "--report", "--validation_steps", 2, "--save_precision", "float32")
    run = train(*flags, "--validation_prompts", "colour 1", "colour 2")
    found = {path.name for path in run.iterdir()}
    assert found >= {
        "run.json",
        "log.jsonl",
        "validation",
        "reslora_adapter.safetensors",
        "merge_report.json",
        "pytorch_lora_weights.safetensors",
        "run.safetensors",
    }
    rows = read_jsonl(run / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(set(row) == {"step", "loss", "lr", "grad_norm", "seconds", "waiting", "memory"} for row in rows)
    index = read_jsonl(run / "validation" / "index.jsonl")
    assert {row["step"] for row in index if row["merge_approach"] == "unmerged"} == {0, 2, 4}
    approach = "least_squares" if method in ("reslora_is", "reslora_ms") else "exact"
    exact = {"lora": set(), "reslora_bs": {"none"}, "reslora_frozen": set()}
    others = exact.get(method, {"none", "input", "weights"})
    assert {row["merge_approach"] for row in index if row["step"] == 4} == {"base", "unmerged", approach, *others}
    assert [row["prompt"] for row in read_jsonl(run / "validation" / "real.jsonl")] == ["colour 1", "colour 2"]
    assert all((run / "validation" / row["file"]).is_file() for row in index)
    described = json.loads((run / "run.json").read_text())
    assert described["method"] == method and len(described["link_plan"]) == 48 and described["steps"] == 4
    report = json.loads((run / "merge_report.json").read_text())
    assert all(block["norm"] > 0 for block in report["blocks"].values())
    assert report["approach"] == approach and report["end_to_end"]["active_linears_in_fresh_pipeline"] == 48
    if approach == "exact":
        assert report["end_to_end"]["drift"]["exact"] < 1e-4
        assert report["end_to_end"]["largest_difference_of_exported_file"] < 1e-4
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    "method",
    [
        "reslora_ms",
        "reslora_frozen",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("lora", "reslora_is", "reslora_bs")),
    ],
)
def test_a_resumed_run_is_the_straight_run(train, method):
    flags = (
        "--method",
        method,
        "--lora_dropout",
        0.1,
        "--lr_scheduler",
        "cosine",
        "--lr_warmup_steps",
        2,
        "--gradient_accumulation_steps",
        2,
    )
    straight = train(*flags, "--max_train_steps", 6, output="straight")
    train(*flags, "--max_train_steps", 6, "--checkpointing_steps", 2, output="resumed")
    os.rename(straight.parent / "resumed" / "checkpoint-4", straight.parent / "keep")
    resumed = train(
        *flags,
        "--max_train_steps",
        6,
        "--checkpointing_steps",
        2,
        "--resume_from_checkpoint",
        "checkpoint-2",
        output="resumed",
    )
    assert_same(straight, resumed)
    again = train(
        *flags,
        "--max_train_steps",
        6,
        "--checkpointing_steps",
        2,
        "--resume_from_checkpoint",
        "latest",
        output="resumed",
    )
    assert_same(straight, again)
    assert [row["lr"] for row in read_jsonl(straight / "log.jsonl")] == [
        row["lr"] for row in read_jsonl(again / "log.jsonl")
    ]


def test_resuming_past_the_end_keeps_the_weights(train):
    run = train("--checkpointing_steps", 4)
    before = weights(run)
    train("--checkpointing_steps", 4, "--resume_from_checkpoint", "latest", "--max_train_steps", 3)
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())


def test_only_so_many_checkpoints_stay(train):
    run = train("--checkpointing_steps", 1, "--checkpoints_total_limit", 2)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    names = {path.name for path in (run / "checkpoint-4").iterdir()}
    assert "reslora_adapter.safetensors" in names and not any("model" in name for name in names)


def test_all_methods_see_the_same_noise_so_that_their_first_loss_is_equal(train):
    firsts = {losses(train("--method", method, "--max_train_steps", 1, output=method))[0] for method in METHODS}
    assert len(firsts) == 1


def test_cached_latents_change_no_loss(train):
    cached = train("--cache_latents", "--max_train_steps", 3, output="cached")
    fresh = train("--no-cache_latents", "--max_train_steps", 3, output="fresh")
    assert losses(cached) == pytest.approx(losses(fresh), rel=1e-4)


def test_random_crops_forbid_the_cache(train, tmp_path):
    wide = make_picture_folder(tmp_path / "wide", size=(32, 16))
    with pytest.raises(ValueError, match=r"crops are random here\. Add --center_crop"):
        train("--cache_latents", "--no_buckets", data=wide)
    assert len(losses(train("--random_flip", data=wide))) == 4


def test_accumulation_counts_optimizer_steps(train):
    flags = ("--max_train_steps", 2, "--validation_steps", 2, "--validation_prompts", "colour 1")
    run = train("--gradient_accumulation_steps", 3, *flags)
    assert [row["step"] for row in read_jsonl(run / "log.jsonl")] == [1, 2]
    assert {row["step"] for row in read_jsonl(run / "validation" / "index.jsonl")} == {0, 2}


def test_gradient_checkpointing_trains_the_same(train):
    plain, saved = (
        train("--method", "reslora_ms", output="a"),
        train("--method", "reslora_ms", "--gradient_checkpointing", output="b"),
    )
    assert losses(plain) == pytest.approx(losses(saved), rel=1e-5)


def bad_cases(tmp_path, tiny):
    pictures = tmp_path / "pictures"
    broken = tmp_path / "broken_model"
    broken.mkdir()
    (broken / "model_index.json").write_text((tiny / "model_index.json").read_text())
    (tmp_path / "file").write_text("in the way")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    return {
        "rank": (["--rank", 0], "rank"),
        "timesteps": (["--max_timestep", 1001], "min_timestep < max_timestep <= 1000"),
        "timesteps in the wrong order": (["--min_timestep", 600, "--max_timestep", 600], "--min_timestep is 600"),
        "data": (["--train_data_dir", tmp_path / "nowhere"], "There is no"),
        "column": (["--caption_column", "words"], "'words'"),
        "model": (["--pretrained_model_name_or_path", tmp_path / "nowhere"], "Cannot read model_index.json"),
        "broken model": (["--pretrained_model_name_or_path", broken], "Cannot read text_encoder"),
        "another family": (["--pretrained_model_name_or_path", other], "is a StableDiffusion3Pipeline"),
        "targets": (["--target_modules", "query"], "'query'"),
        "resume name": (["--resume_from_checkpoint", "checkpoint-9"], "no checkpoint 'checkpoint-9'"),
        "output": (["--output_dir", tmp_path / "file" / "run"], "can't be written"),
        "approach": (["--merge_approach", "exact"], "doesn't fit"),
    }, pictures


CASES = """rank, timesteps, timesteps in the wrong order, data, column, model, broken model, another family, targets,
resume name, output, approach"""


@pytest.mark.parametrize("case", CASES.replace("\n", " ").split(", "))
def test_bad_input_is_one_clear_error_and_writes_nothing(train, case, tmp_path, tiny_pipeline_folder):
    cases, _ = bad_cases(tmp_path, tiny_pipeline_folder)
    flags, words = cases[case]
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        train(*flags)
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_user_sees_the_error_without_a_traceback(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            "--train_data_dir",
            str(tmp_path / "nowhere"),
            "--output_dir",
            str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: There is no")
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_another_run_is_not_overwritten_unasked(train):
    run = train()
    before = weights(run)
    with pytest.raises(ValueError, match="holds a run already"):
        train()
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    assert len(losses(train("--overwrite_output_dir", "--max_train_steps", 2))) == 2


def test_resuming_with_other_settings_is_refused(train):
    train("--checkpointing_steps", 2)
    with pytest.raises(ValueError, match=r"other settings: --method was \"reslora_is\" and is \"reslora_ms\"\."):
        train("--resume_from_checkpoint", "latest", "--method", "reslora_ms")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(train, monkeypatch):
    from reslora_sd.diffusion import loss as loss_module

    calls = {"count": 0}
    honest = loss_module.diffusion_loss

    def sometimes_nan(*arguments, **named):
        calls["count"] += 1
        return honest(*arguments, **named) * (float("nan") if calls["count"] == 4 else 1)

    monkeypatch.setattr(loss_module, "diffusion_loss", sometimes_nan)
    with pytest.raises(RuntimeError, match=r"loss of step 4 is nan\. .*--learning_rate"):
        train("--checkpointing_steps", 3, "--max_train_steps", 6)
    monkeypatch.undo()
    resumed = train("--checkpointing_steps", 3, "--max_train_steps", 6, "--resume_from_checkpoint", "latest")
    assert_same(resumed, train("--max_train_steps", 6, output="straight"))


def test_blocks_that_never_learn_stop_the_run(train, monkeypatch):
    monkeypatch.setattr("torch.optim.AdamW.step", lambda self, closure=None: None)
    with pytest.raises(RuntimeError, match="After 10 steps lora_B of 48 of 48 blocks is still zero"):
        train("--max_train_steps", 12)


def test_pictures_that_repeat_raise_an_alarm(train, monkeypatch, caplog):
    monkeypatch.setattr("torch.optim.AdamW.step", lambda self, closure=None: None)
    train(
        "--max_train_steps", 2, "--validation_steps", 1, "--validation_prompts", "colour 1", "--merge_approach", "none"
    )
    assert "equal those of an earlier step to the last pixel" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reslora_is", "reslora_ms"])
def test_least_squares_is_much_nearer_than_the_papers_merges_on_a_trained_model(train, method, tmp_path):
    """On the embedded model, whose layers do something; the merge is measured on fresh noise."""
    run = train(
        "--method",
        method,
        "--pretrained_model_name_or_path",
        ROOT / "reslora_sd" / "assets" / "tiny-sd",
        "--dataset_name",
        "openmoji",
        "--max_train_samples",
        64,
        "--train_batch_size",
        8,
        "--learning_rate",
        2e-3,
        "--max_train_steps",
        15,
        "--rank",
        16,
        "--validation_steps",
        15,
        "--validation_samples",
        16,
        "--validation_prompt",
        "cat face",
        "--validation_inference_steps",
        2,
        "--calibration_samples",
        128,
        data=None,
    )
    drift = json.loads((run / "merge_report.json").read_text())["end_to_end"]["drift"]
    assert drift["least_squares"] < 0.7 * min(drift["input"], drift["weights"])
    assert drift["least_squares"] < 0.25 * drift["none"]
    pipeline = StableDiffusionPipeline.from_pretrained(ROOT / "reslora_sd" / "assets" / "tiny-sd")
    pipeline.load_lora_weights(str(run))
    assert pipeline.get_active_adapters()


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}


def command(tiny, pictures, output, *more):
    return [
        "--pretrained_model_name_or_path",
        str(tiny),
        "--train_data_dir",
        str(pictures),
        "--output_dir",
        str(output),
        "--rank",
        "4",
        "--learning_rate",
        "0.01",
        "--calibration_samples",
        "8",
        *more,
    ]


@pytest.mark.parametrize("text", [(), pytest.param(("--train_text_encoder",), marks=pytest.mark.slow)])
def test_two_processes_give_the_losses_of_one_with_the_joined_batch(
    train, tiny_pipeline_folder, picture_folder, tmp_path, text
):
    flags = (
        "--method",
        "reslora_ms",
        "--max_train_steps",
        "6",
        "--lr_scheduler",
        "linear",
        "--checkpointing_steps",
        "3",
        *text,
    )
    # accelerate launch starts one process where there is no GPU; torchrun starts as many as it is told
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
        str(SCRIPT),
    ]
    done = subprocess.run(
        [*launch, *command(tiny_pipeline_folder, picture_folder, tmp_path / "two", *flags, "--train_batch_size", "2")],
        env={**environment(), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = train(*flags, "--train_batch_size", 4, output="one")
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)
    rates = [[row["lr"] for row in read_jsonl(run / "log.jsonl")] for run in (one, tmp_path / "two")]
    assert rates[0] == rates[1]
    assert weights(tmp_path / "two").keys() == weights(one).keys()


@pytest.mark.slow  # test_stop_and_resume.py kills a run in the same place
def test_a_run_killed_while_saving_can_be_continued(train, tiny_pipeline_folder, picture_folder, tmp_path):
    """The process kills itself in the middle of its second checkpoint."""
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
sys.argv[0] = {str(SCRIPT)!r}
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
"""
    flags = ("--max_train_steps", "6", "--checkpointing_steps", "2", "--train_batch_size", "2")
    done = subprocess.run(
        [sys.executable, "-c", code, *command(tiny_pipeline_folder, picture_folder, tmp_path / "killed", *flags)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = train(*flags, "--resume_from_checkpoint", "latest", output="killed")
    assert_same(resumed, train("--max_train_steps", 6, output="straight"))
    assert not list(resumed.glob(".checkpoint*"))


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_and_can_be_continued(
    train, tiny_pipeline_folder, picture_folder, tmp_path
):
    """The process asks itself to stop in its third step, as `kill` or a page would."""
    code = f"""
import os, signal, sys
import reslora_sd.runs.folder
log = reslora_sd.runs.folder.RunFolder.log
def log_then_ask(self, **row):
    log(self, **row)
    if row["step"] == 3:
        os.kill(os.getpid(), signal.SIGTERM)
reslora_sd.runs.folder.RunFolder.log = log_then_ask
sys.argv[0] = {str(SCRIPT)!r}
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
"""
    flags = ("--max_train_steps", "6", "--train_batch_size", "2")
    done = subprocess.run(
        [sys.executable, "-c", code, *command(tiny_pipeline_folder, picture_folder, tmp_path / "stopped", *flags)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Stopped after step 3 of 6" in done.stdout
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (tmp_path / "stopped" / "merge_report.json").exists()
    resumed = train(*flags, "--resume_from_checkpoint", "latest", output="stopped")
    assert_same(resumed, train("--max_train_steps", 6, output="straight"))


@pytest.mark.slow
def test_one_of_two_processes_is_asked_to_stop_and_both_leave_one_checkpoint(
    tiny_pipeline_folder, picture_folder, tmp_path
):
    script = tmp_path / "asked.py"
    script.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(SCRIPTS)!r})
import train_text_to_image_reslora as script
step = script.OptimizerStep.__call__
def step_then_ask(self, number):
    row = step(self, number)
    if number == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    return row
script.OptimizerStep.__call__ = step_then_ask
script.cli()
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    flags = ("--max_train_steps", "6", "--train_batch_size", "2")
    done = subprocess.run(
        [*launch, str(script), *command(tiny_pipeline_folder, picture_folder, tmp_path / "two", *flags)],
        env={**environment(), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Stopped after step 3 of 6") == 1
    assert [path.name for path in (tmp_path / "two").glob("checkpoint-*")] == ["checkpoint-3"]
    assert "Traceback" not in done.stderr


def test_pictures_kept_out_are_not_trained_on_and_have_a_loss(train):
    run = train("--validation_samples", 3, "--validation_steps", 2, "--validation_prompts", "colour 1")
    assert json.loads((run / "run.json").read_text())["dataset"]["pictures"] == 5
    report = json.loads((run / "merge_report.json").read_text())["end_to_end"]
    assert set(report["loss"]) == {"base", "unmerged", "none", "input", "weights", "least_squares"}
    held = [row["validation_loss"] for row in read_jsonl(run / "log.jsonl") if "validation_loss" in row]
    assert len(held) == 2 and held[0] != held[1]
    with pytest.raises(ValueError, match="--validation_samples 8 leaves none of the 8 pictures"):
        train("--validation_samples", 8, output="other")


def test_test_pictures_are_measured_on_at_the_end_and_serve_nothing_else(train, picture_folder):
    flags = ("--validation_samples", 3, "--method", "lora", "--test_samples")
    first = train(*flags, 3)
    report = json.loads((first / "merge_report.json").read_text())
    assert json.loads((first / "run.json").read_text())["dataset"]["pictures"] == 2
    assert (report["test"], report["validation"]["pictures"]) == ({"pictures": 3}, 3)
    split = load_split(parse_settings(["--train_data_dir", str(picture_folder), "--test_samples", "3"]), 16)
    for (caption,) in split.test.captions if split.test else ():
        Image.new("RGB", (16, 16), "white").save(picture_folder / f"{caption.split()[-1]}.png")
    other = train(*flags, 3, output="other")
    assert_same(first, other)
    changed = json.loads((other / "merge_report.json").read_text())
    assert changed["validation"] == report["validation"]
    assert changed["end_to_end"]["loss"]["unmerged"] != report["end_to_end"]["loss"]["unmerged"]


def test_an_adapter_that_diverges_at_the_last_step_is_told_by_the_pictures_kept_out(train, monkeypatch):
    script = load_script(SCRIPT.stem)
    monkeypatch.setattr(script, "validation_loss", lambda *_: float("nan"))
    with pytest.raises(DivergedError, match="After training, the loss of the pictures kept out is nan"):
        train("--validation_samples", 3, "--max_train_steps", 1, script=script)


@pytest.mark.parametrize(
    "method", [pytest.param(one, marks=pytest.mark.slow) if one != "reslora_ms" else one for one in METHODS]
)
def test_base_weights_are_bit_identical_after_training_merging_and_exporting(train, method, monkeypatch):
    from reslora_sd.diffusion import models

    loaded = []
    honest = models.load_parts

    def remember(*arguments, **more):
        parts = honest(*arguments, **more)
        loaded.append((parts, {name: value.clone() for name, value in parts.unet.state_dict().items()}))
        return parts

    monkeypatch.setattr(models, "load_parts", remember)
    train("--method", method, "--validation_prompts", "colour 1", "--validation_steps", 2)
    ((parts, before),) = loaded
    after = parts.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_time_is_logged_in_seconds(train):
    started = time.perf_counter()
    run = train()
    assert 0 < sum(row["seconds"] for row in read_jsonl(run / "log.jsonl")) < time.perf_counter() - started
