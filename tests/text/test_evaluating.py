"""Evaluation while training, on the rows kept apart, and the best weights at the end."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.text import session
from reslora_sd.text.arguments import CLASSIFICATION, GENERATION
from reslora_sd.text.trainer import RunTrainer
from tests.texts import save_small_bert, save_small_llama, write_glue, write_svamp
from train_scripts import train_nlg_reslora, train_nlu_reslora

EVERY_EPOCH = ("--eval_strategy", "epoch", "--load_best_model_at_end", "--validation_samples", 8)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(kind) for kind in ("llama", "bert")]
    return {"nlg": save_small_llama(folders[0]), "nlu": save_small_bert(folders[1], encoder_only=True)}


@pytest.fixture
def train(models, tmp_path):
    """Three epochs of four steps on 16 rows."""
    scripts = {"nlg": (train_nlg_reslora, GENERATION), "nlu": (train_nlu_reslora, CLASSIFICATION)}

    def run(script, *more, output="run"):
        module, line = scripts[script]
        task, write = ("svamp", write_svamp) if script == "nlg" else ("rte", lambda path, n: write_glue(path, "rte", n))
        rows = write(tmp_path / "rows.jsonl", 24)
        flags = ("--model", models[script], "--task", task, "--train_file", rows, "--test_file", rows)
        sizes = ("--num_train_epochs", 3, "--per_device_train_batch_size", 4, "--calibration_samples", 4)
        others = ("--learning_rate", 0.02, "--evaluate", "none", "--use_cpu", "--output_dir", tmp_path / output)
        return module.main(line.parse(list(map(str, (*flags, *sizes, *others, *more))))), tmp_path / output

    return run


def weights(folder, method="reslora_is"):
    name = "reslora_adapter.safetensors" if method == "reslora_is" else "peft/adapter_model.safetensors"
    if method != "reslora_is" and folder.name.startswith("checkpoint"):
        name = "adapter_model.safetensors"
    return load_tensors(folder / name)[0]


def gets_worse(monkeypatch, best):
    """The loss of every evaluation but the best one is that much higher."""
    evaluate, seen = RunTrainer.evaluation_loop, []

    def loop(self, *args, **more):
        found = evaluate(self, *args, **more)
        seen.append(self.state.global_step)
        found.metrics["eval_loss"] += 0.0 if self.state.global_step == best else 10.0
        return found

    monkeypatch.setattr(RunTrainer, "evaluation_loop", loop)
    return seen


@pytest.mark.parametrize(("script", "method"), [("nlg", "reslora_is"), ("nlu", "loha"), ("nlu", "full")])
def test_the_best_weights_are_taken_and_kept(train, monkeypatch, script, method):
    """Also where only one checkpoint may stay beside them: --eval_strategy, --load_best_model_at_end."""
    seen = gets_worse(monkeypatch, best=4)
    flags = ("--eval_strategy", "epoch", "--load_best_model_at_end", "--validation_samples", 8)
    result, run = train(script, "--method", method, *flags, "--save_total_limit", 1)
    assert seen == [4, 8, 12] == [row["step"] for row in result["evaluations"]]
    assert result["best_step"] == 4 and result["steps"] == 12
    assert [row["epoch"] for row in result["evaluations"]] == [1, 2, 3]
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-12"}
    assert result["validation_loss"] == pytest.approx(result["evaluations"][0]["loss"], rel=0.05)
    if method == "full":
        return
    mine, best, last = (weights(one, method) for one in (run, run / "checkpoint-4", run / "checkpoint-12"))
    assert all(torch.equal(mine[name], best[name]) for name in best)
    assert any(not torch.equal(mine[name], last[name]) for name in last)
    assert len(read_jsonl(run / "log.jsonl")) == 12


def test_a_resumed_run_knows_its_best_step_and_evaluates_it_alone_at_its_end(train, monkeypatch):
    gets_worse(monkeypatch, best=4)
    straight, _ = train("nlu", *EVERY_EPOCH)
    for start in ("checkpoint-8", "latest"):
        resumed, _ = train("nlu", *EVERY_EPOCH, "--resume_from_checkpoint", start)
        same = ("validation_loss", "evaluations", "best_step", "steps")
        assert [resumed[key] for key in same] == [straight[key] for key in same]


def test_steps_count_too_and_the_last_weights_stay_unless_the_best_are_asked_for(train):
    flags = ("--eval_strategy", "steps", "--eval_steps", 5, "--validation_samples", 8)
    result, run = train("nlg", *flags)
    assert [row["step"] for row in result["evaluations"]] == [5, 10, 12] and "best_step" not in result
    assert json.loads((run / "results.json").read_text())["evaluations"] == result["evaluations"]
    best, _ = train("nlg", *flags, "--load_best_model_at_end", output="best")
    assert best["best_step"] in (5, 10, 12)


@pytest.mark.parametrize("rate", ["0", "-0.1", "nan"])
def test_a_rate_at_which_nothing_is_learned_is_refused(train, tmp_path, rate):
    with pytest.raises(ValueError, match=r"--learning_rate is .*: nothing would be learned"):
        train("nlg", "--learning_rate", rate)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", ["nlg", "nlu"])
def test_the_metric_is_measured_after_epochs_and_the_training_stays_as_it_was(train, script):
    plain, run = train(script)
    result, measured = train(script, "--measure_epochs", 1, 3, output="measured")
    assert [row["epoch"] for row in result["by_epoch"]] == [1, 3] and result["steps_per_epoch"] == 6
    assert all(0 <= row["accuracy"] <= 1 for row in result["by_epoch"]) and "by_epoch" not in plain
    losses = [[row["loss"] for row in read_jsonl(folder / "log.jsonl")] for folder in (run, measured)]
    assert losses[0] == losses[1]


def test_what_was_measured_before_a_stop_is_there_after_it_and_the_last_epoch_is_the_final_figure(train):
    flags = ("--measure_epochs", 1, 3, "--evaluate", "all", "--max_new_tokens", 8)
    straight, _ = train("nlg", *flags, "--save_steps", 4)
    resumed, _ = train("nlg", *flags, "--resume_from_checkpoint", "checkpoint-4")
    assert resumed["by_epoch"] == straight["by_epoch"]
    last = straight["by_epoch"][-1]
    assert {key: straight["results"]["unmerged"][key] for key in ("accuracy", "unreadable")} == {
        key: last[key] for key in ("accuracy", "unreadable")
    }


@pytest.mark.parametrize("sharded", ["fsdp", "zero3"])
def test_one_process_measures_no_model_that_it_has_a_part_of(sharded, monkeypatch):
    """It would wait for the others for ever."""
    monkeypatch.setattr(session, "is_deepspeed_zero3_enabled", lambda: sharded == "zero3")
    trainer: Any = SimpleNamespace(is_fsdp_enabled=sharded == "fsdp")
    with pytest.raises(ValueError, match="only a part of the model under ZeRO-3 or FSDP"):
        session.measure_epochs(trainer, [1], dict)


def test_an_epoch_after_the_end_or_before_the_start_is_refused(train):
    with pytest.raises(ValueError, match="--measure_epochs has 4, and the run has 3 epochs"):
        train("nlg", "--measure_epochs", 1, 4)
    with pytest.raises(ValueError, match=r"--measure_epochs has 0\. Epochs are counted from 1"):
        train("nlg", "--measure_epochs", 0)
