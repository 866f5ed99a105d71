"""The generation script from end to end, on a small random Llama."""

import json
import os
import re
import subprocess
import sys

import peft
import pytest
import torch
import transformers
from accelerate.utils.deepspeed import HfDeepSpeedConfig

from reslora_sd import load_reslora
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.failures import NoSpaceError
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.text.arguments import GENERATION
from reslora_sd.text.encode import encode, padding
from reslora_sd.text.evaluate import run_model
from reslora_sd.text.tasks import read_train, task_named
from reslora_sd.text.trainer import RunTrainer
from tests.scripts import SCRIPTS, free_port
from tests.texts import full_disk, save_small_llama, write_svamp
from train_scripts import train_nlg_reslora

OURS = ("lora", "reslora_is", "reslora_bs", "reslora_ms", "reslora_frozen")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_small_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def command(llama, tmp_path):
    """Flags of a run of a few steps."""
    train, test = write_svamp(tmp_path / "train.jsonl", 24), write_svamp(tmp_path / "test.jsonl", 6, first=100)

    def make(*more, output="run"):
        return [
            "--model",
            str(llama),
            "--train_file",
            str(train),
            "--test_file",
            str(test),
            "--max_steps",
            "6",
            "--per_device_train_batch_size",
            "4",
            "--learning_rate",
            "0.02",
            "--calibration_samples",
            "8",
            "--use_cpu",
            "--output_dir",
            str(tmp_path / output),
            *map(str, more),
        ]

    return make


@pytest.fixture
def train(command, tmp_path):
    def run(*more, output="run"):
        return train_nlg_reslora.main(GENERATION.parse(command(*more, output=output))), tmp_path / output

    return run


def losses(run):
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def answer_loss(model, folder, file):
    """Mean cross-entropy of the answers' tokens of a file."""
    task = task_named("svamp")
    rows = read_train(task, str(file), None, 0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = padding(tokenizer)(encode(rows, task, tokenizer, 512).examples)
    logits = run_model(model, batch)[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()).item()


@pytest.mark.parametrize("method", OURS)
def test_our_methods_train_merge_and_are_loaded_by_peft(train, llama, method):
    result, run = train("--method", method)
    assert losses(run)[-1] < losses(run)[0] and len(losses(run)) == 6
    variants = result["results"]
    assert {"base", "unmerged", "merged: exact" if method == "reslora_frozen" else "merged: none"} <= variants.keys()
    assert variants["unmerged"]["kl"] == 0 < variants["base"]["kl"]
    said, task = read_jsonl(run / "answers.jsonl"), task_named("svamp")
    assert len(said) == 6
    for name, row in variants.items():
        right = [task.is_correct(one["answers"][name], one["row"]) for one in said]
        assert row["accuracy"] == sum(right) / 6 and row["answer_loss"] > 0
        assert right == [one["right"][name] for one in said]
    assert said[0]["prompt"] == task.prompt(said[0]["row"]) and task.is_correct(said[0]["target"], said[0]["row"])
    written = json.loads((run / "run.json").read_text())
    assert written["trainable_parameters"] == result["trainable_parameters"] == 896
    assert GENERATION.from_values(written["arguments"]).to_arguments() == written["arguments"]

    # what others load is what was measured
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(llama), run / "peft")
    exported = variants["merged: least_squares" if method in ("reslora_is", "reslora_ms") else "merged: exact"]
    assert answer_loss(model, llama, run.parent / "test.jsonl") == pytest.approx(exported["answer_loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["adalora", "loha", "lokr", "full"])
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
def test_baselines_train_and_are_saved_by_their_own_library(train, llama, method):
    result, run = train("--method", method, "--max_steps", 12)
    assert losses(run)[-1] < losses(run)[0]
    unmerged = result["results"]["unmerged"]
    if method == "full":
        model = transformers.AutoModelForCausalLM.from_pretrained(run / "fused")
    else:
        assert "base" in result["results"]
        model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(llama), run / "peft")
    assert answer_loss(model, llama, run.parent / "test.jsonl") == pytest.approx(unmerged["answer_loss"], rel=1e-5)


def test_lora_and_reslora_start_from_the_same_a_and_see_the_same_rows(train):
    runs = [train("--method", method, "--max_steps", 1, "--evaluate", "none", output=method)[1] for method in OURS]
    firsts = [losses(run)[0] for run in runs]
    assert firsts == pytest.approx([firsts[0]] * len(OURS), rel=1e-6)  # B is zero: every method gives the base model
    states = [load_tensors(run / "checkpoint-1" / "reslora_adapter.safetensors")[0] for run in runs]
    own = [{name for name in state if not name.endswith(".M")} for state in states]
    assert all(names == own[0] for names in own)


@pytest.mark.parametrize("method", OURS)
def test_gradient_checkpointing_trains_the_same(train, method):
    plain = train("--method", method, "--evaluate", "none", output="plain")[1]
    checkpointed = train("--method", method, "--evaluate", "none", "--gradient_checkpointing", output="saving")[1]
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-6)


@pytest.mark.parametrize("method", [pytest.param("reslora_ms", marks=pytest.mark.slow), "reslora_frozen"])
def test_a_resumed_run_is_the_straight_one(train, method):
    flags = ("--method", method, "--save_steps", 2, "--lr_scheduler_type", "linear")
    straight, run = train(*flags, output="straight")
    train(*flags, "--evaluate", "none", output="resumed")
    resumed, again = train(*flags, "--resume_from_checkpoint", "checkpoint-2", output="resumed")
    assert losses(again) == losses(run) and resumed["results"] == straight["results"]
    mine, theirs = (load_tensors(folder / "reslora_adapter.safetensors")[0] for folder in (run, again))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("precision", [(), ("--bf16",)])
def test_a_run_at_its_end_is_only_evaluated(train, precision):
    """To the same figures: training in half precision leaves no autocast behind."""
    flags = ("--method", "reslora_is", "--validation_samples", 4, *precision)
    bare, run = train(*flags, "--evaluate", "none")
    assert bare["results"] == {} and bare["validation_loss"] > 0
    full, _ = train(*flags, "--resume_from_checkpoint", "latest")
    assert full["validation_loss"] == bare["validation_loss"] and "unmerged" in full["results"]
    assert full["seconds_per_step"] == bare["seconds_per_step"] and len(losses(run)) == 6


def test_a_fused_model_needs_nothing_of_ours(train, llama):
    _, run = train("--method", "reslora_bs", "--save_fused", "--evaluate", "none")
    fused = transformers.AutoModelForCausalLM.from_pretrained(run / "fused")
    model = transformers.AutoModelForCausalLM.from_pretrained(llama)
    load_reslora(model, run / "reslora_adapter.safetensors")
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(run / "peft")  # told no more than that
    tokens = torch.arange(3, 30)[None]
    with torch.no_grad():
        for one in (fused, auto):
            torch.testing.assert_close(one(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)


def test_the_loss_counts_answers_only(train, llama):
    """The first logged loss, where B is zero, is the base model's."""
    result, run = train("--method", "lora", "--max_steps", 1, "--per_device_train_batch_size", 24, "--evaluate", "loss")
    base = transformers.AutoModelForCausalLM.from_pretrained(llama)
    assert losses(run)[0] == pytest.approx(answer_loss(base, llama, run.parent / "train.jsonl"), rel=1e-5)
    assert "accuracy" not in result["results"]["unmerged"]


@pytest.mark.parametrize("flags", [(), ("--logging_nan_inf_filter", "true", "--logging_steps", 3)])
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(train, tmp_path, monkeypatch, flags):
    """transformers would log the mean of the losses before, and go on."""
    step, steps = RunTrainer.compute_loss, []

    def broken(self, *args, **kwargs):
        steps.append(1)
        return step(self, *args, **kwargs) * (float("nan") if len(steps) == 2 else 1)

    monkeypatch.setattr(RunTrainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match=r"^The loss of step 2 is nan\. Training stopped"):
        train("--method", "reslora_ms", "--save_steps", 1, *flags)
    run = tmp_path / "run"
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-1"]
    assert all(loss > 0 for loss in losses(run))


def test_too_long_rows_are_counted_and_said(train, tmp_path, caplog):
    result, _ = train("--max_length", 85, "--evaluate", "loss", "--test_file", tmp_path / "train.jsonl")
    assert result["dataset"]["too_long"] == 28 and "14 test rows are over --max_length 85: left out" in caplog.text


def test_answers_are_cut_after_so_many_tokens(train):
    """The tokens are bytes; a random model ends no answer early."""
    _, run = train("--max_new_tokens", 3, "--max_steps", 1)
    answers = [text for row in read_jsonl(run / "answers.jsonl") for text in row["answers"].values()]
    assert max(len(text.encode()) for text in answers) <= 3 * len("\ufffd".encode()) and any(answers)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "sudoku"], "'sudoku'"),
        (["--method", "dora"], "invalid choice|--method is 'dora'"),
        (["--target_modules", "nowhere"], "nowhere"),
        (["--train_file", "none.jsonl"], "There is no file none.jsonl"),
        (["--max_length", "0"], "--max_length is 0"),
        (["--max_length", "9"], "fits into 9 tokens"),
        (["--eval_batch_size", "0"], "--eval_batch_size is 0"),
        (["--resume_from_checkpoint", "checkpoint-3"], "no checkpoint 'checkpoint-3'"),
        (["--model", "/nowhere"], "can't be loaded"),
        (["--validation_samples", "24"], "24 training rows"),
        (["--dtype", "float16", "--bf16"], "--dtype float16 and --bf16 are two half precisions"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(train, tmp_path, capsys, flags, message):
    with pytest.raises((ValueError, FileNotFoundError, SystemExit)) as caught:
        train(*flags)
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")
    assert not (tmp_path / "run").exists()


def test_latest_starts_a_run_where_there_is_none_and_then_goes_on(train):
    flags = ("--evaluate", "none", "--resume_from_checkpoint", "latest")
    _, run = train(*flags, "--max_steps", 1)
    _, run = train(*flags, "--max_steps", 2)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_run_that_is_there_is_not_overwritten_unasked(train):
    _, run = train("--evaluate", "none", "--max_steps", 1)
    with pytest.raises(ValueError, match="holds a run already"):
        train("--evaluate", "none")
    train("--evaluate", "none", "--max_steps", 2, "--overwrite_output_dir")
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_joined_batch(train, command, tmp_path):
    flags = ("--method", "reslora_ms", "--evaluate", "none")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
        str(SCRIPTS / "train_nlg_reslora.py"),
    ]
    done = subprocess.run(
        [*launch, *command(*flags, "--per_device_train_batch_size", 2, output="two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, one = train(*flags, output="one")
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)


def test_the_shipped_zero2_settings_are_read_by_accelerate():
    """Appendix C's offload; what the trainer decides is left to it ("auto").

    transformers' own reader would need DeepSpeed, and would stay on for every model that is loaded after it.
    """
    settings = HfDeepSpeedConfig(str(SCRIPTS / "configs" / "deepspeed_zero2_offload.json"))
    assert settings.is_zero2() and settings.is_offload()
    for left_open in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping", "bf16.enabled"):
        assert settings.get_value(left_open) == "auto"


def test_a_disk_that_the_answers_fill_up_has_all_else(train, tmp_path, monkeypatch):
    monkeypatch.setattr(train_nlg_reslora, "write_answers", full_disk)
    with pytest.raises(NoSpaceError, match="No space left"):
        train("--method", "lora", "--max_steps", "1")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert (tmp_path / "run" / "peft" / "adapter_model.safetensors").is_file()
