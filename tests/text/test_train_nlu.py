"""The classification script from end to end, on a small random BERT."""

import json
import re

import peft
import pytest
import torch
import transformers

from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.failures import NoSpaceError
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.text.arguments import CLASSIFICATION
from reslora_sd.text.models import load_classifier
from tests.text.flags.rows import make_deep
from tests.texts import full_disk, save_small_bert, save_small_roberta, write_glue
from train_scripts import train_nlu_reslora

OURS = ("lora", "reslora_is", "reslora_bs", "reslora_ms", "reslora_frozen")
STEPS = 12


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_small_bert(tmp_path_factory.mktemp("bert"), encoder_only=True)


@pytest.fixture
def train(bert, tmp_path):
    def run(*more, task="rte", output="run"):
        files = [write_glue(tmp_path / f"{task}-{part}.jsonl", task, 24) for part in ("train", "test")]
        argv = [
            "--model",
            str(bert),
            "--task",
            task,
            "--train_file",
            str(files[0]),
            "--test_file",
            str(files[1]),
            "--max_steps",
            str(STEPS),
            "--per_device_train_batch_size",
            "8",
            "--learning_rate",
            "0.02",
            "--calibration_samples",
            "8",
            "--use_cpu",
            "--output_dir",
            str(tmp_path / output),
            *map(str, more),
        ]
        return train_nlu_reslora.main(CLASSIFICATION.parse(argv)), tmp_path / output

    return run


def losses(run):
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def head_of(run, method):
    """The classifier's weights that a run saved."""
    if method == "full":
        return transformers.AutoModelForSequenceClassification.from_pretrained(run / "fused").classifier.weight
    if method in OURS:
        return load_tensors(run / "trained_modules.safetensors")[0]["classifier.weight"]
    return load_tensors(run / "peft" / "adapter_model.safetensors")[0]["base_model.model.classifier.weight"]


def logits_of(model):
    tokens = torch.arange(3, 60).view(3, 19)
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits


@pytest.mark.parametrize("method", [*OURS, "adalora", "loha", "lokr", "full"])
def test_every_method_learns_and_its_head_trains(train, bert, method):
    rate = ("--learning_rate", "0.002") if method == "full" else ()
    result, run = train("--method", method, *rate)
    assert losses(run)[-1] < losses(run)[0]
    assert result["results"]["unmerged"]["accuracy"] == 1
    transformers.set_seed(42)  # TrainingArguments' own
    new, _, _ = load_classifier(str(bert), 2)
    assert not torch.equal(head_of(run, method), new.classifier.weight)
    if method in OURS:  # A and B of q and v in two layers, and the head
        assert result["trainable_parameters"] == 2 * 2 * 2 * 32 * 4 + 2 * 32 + 2
    if method == "full":
        assert result["trainable_parameters"] == sum(parameter.numel() for parameter in new.parameters())


@pytest.mark.parametrize("method", OURS)
def test_peft_loads_adapter_and_head(train, bert, method):
    _, run = train("--method", method, "--save_fused")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    loaded = peft.PeftModel.from_pretrained(model, run / "peft")
    fused = transformers.AutoModelForSequenceClassification.from_pretrained(run / "fused")
    torch.testing.assert_close(logits_of(loaded), logits_of(fused), rtol=1e-4, atol=1e-5)
    head, _ = load_tensors(run / "trained_modules.safetensors")
    assert torch.equal(fused.classifier.weight, head["classifier.weight"])


@pytest.mark.parametrize(
    ("method", "task", "labels"), [("reslora_is", "rte", None), ("loha", "mnli", 3), ("lora", "stsb", 1)]
)
def test_peft_finds_the_base_by_itself_and_is_told_no_more_than_the_run_said(train, capsys, method, task, labels):
    _, run = train("--method", method, "--save_fused", "--evaluate", "none", "--max_steps", 2, task=task)
    more = f", num_labels={labels}" if labels else ""
    call = f"AutoPeftModelForSequenceClassification.from_pretrained('{run / 'peft'}'{more})"
    assert f"Load the adapter: {call}" in capsys.readouterr().out
    loaded = eval(call, {"AutoPeftModelForSequenceClassification": peft.AutoPeftModelForSequenceClassification})
    fused = transformers.AutoModelForSequenceClassification.from_pretrained(run / "fused")
    torch.testing.assert_close(logits_of(loaded), logits_of(fused), rtol=1e-4, atol=1e-5)
    card = (run / "peft" / "README.md").read_text()
    assert f"from_pretrained('peft'{more})" in card
    assert ("0 entailment, 1 neutral, 2 contradiction" in card) == (task == "mnli")


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_a_head_of_two_layers_is_fused_with_any_method(train, tmp_path, method):
    """RoBERTa's, which PEFT's own merge of LoHa and LoKr trips over."""
    roberta = save_small_roberta(tmp_path / "roberta")
    flags = ("--model", roberta, "--method", method, "--save_fused", "--evaluate", "none")
    _, run = train(*flags, "--max_steps", 2)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(roberta)
    loaded = peft.PeftModel.from_pretrained(model, run / "peft")
    fused = transformers.AutoModelForSequenceClassification.from_pretrained(run / "fused")
    torch.testing.assert_close(logits_of(fused), logits_of(loaded), rtol=1e-4, atol=1e-5)


def test_a_new_pooler_inside_the_base_model_is_loaded_too(train, bert, tmp_path):
    """An encoder whose files lack the pooler, as many of the Hub's: it trains with the head."""
    bare = tmp_path / "bare"
    transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).save_pretrained(bare)
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(bare)
    _, run = train("--model", bare, "--max_steps", 2, "--save_fused", "--evaluate", "none")
    loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(run / "peft")
    fused = transformers.AutoModelForSequenceClassification.from_pretrained(run / "fused")
    torch.testing.assert_close(logits_of(loaded), logits_of(fused), rtol=1e-4, atol=1e-5)


def test_a_new_head_trains_where_the_model_has_one_if_that_is_asked(train):
    flags = ("--method", "lora", "--max_steps", 2)
    _, first = train(*flags, "--save_fused", "--evaluate", "none", "--learning_rate", 0.05, output="first")
    again, new = (
        train(*flags, "--model", first / "fused", *more, output=f"again{len(more)}")[0]["results"]["base"]["loss"]
        for more in ((), ("--new_head",))
    )
    assert again != pytest.approx(new, rel=1e-3)


def test_results_are_written_before_the_files_for_others(train, tmp_path, monkeypatch):
    def fail(*args, **more):
        raise OSError("the disk is full")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk is full"):
        train("--method", "reslora_is", "--save_fused", "--max_steps", 2)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"]["unmerged"]
    assert json.loads((tmp_path / "run" / "merge_report.json").read_text())["blocks"]


def test_a_disk_that_the_answers_fill_up_has_all_else(train, tmp_path, monkeypatch):
    monkeypatch.setattr(train_nlu_reslora, "write_classes", full_disk)
    with pytest.raises(NoSpaceError, match="No space left"):
        train("--method", "lora", "--max_steps", 1)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert (tmp_path / "run" / "peft" / "adapter_model.safetensors").is_file()


def test_the_base_row_is_the_same_model_whatever_the_method(train):
    rows = [
        train("--method", method, "--max_steps", 2, output=method)[0]["results"]["base"]
        for method in ("reslora_ms", "loha", "full")
    ]
    assert all(row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-6) for row in rows)
    assert all(row["accuracy"] == rows[0]["accuracy"] < 1 for row in rows)


def test_a_log_line_that_is_never_due_costs_no_results(train):
    result, run = train("--logging_steps", 5, "--max_steps", 2)
    assert losses(run) == [] and result["results"]["unmerged"] and result["seconds_per_step"] == 0


@pytest.mark.parametrize(("dtype", "method"), [("bfloat16", "lora"), ("float16", "lokr")])
def test_half_precision_gives_results_with_a_head_of_two_layers_too(train, tmp_path, dtype, method):
    roberta = save_small_roberta(tmp_path / "roberta")
    result, _ = train("--model", roberta, "--dtype", dtype, "--method", method, "--max_steps", 2, task="stsb")
    assert {"base", "unmerged"} <= result["results"].keys()


def test_text_runs_report_every_block_as_runs_of_pictures_do(train):
    _, run = train("--method", "reslora_ms", "--evaluate", "none", "--max_steps", 2)
    report = json.loads((run / "merge_report.json").read_text())
    assert report["approach"] == "least_squares" and report["other_approaches"].keys() == {"none", "input", "weights"}
    blocks = report["other_approaches"]["weights"]
    assert len(blocks) == 4 and all(block["norm"] >= 0 and block["input_norm"] > 0 for block in blocks.values())
    assert any(block["alphas"] for block in blocks.values())


def test_the_published_reading_of_eq_13_is_a_flag(train, tmp_path):
    """f_{n-k} / f_n of the inputs' norms instead of those of merged weights; the other merges stay."""
    deep = make_deep(lambda folder: save_small_bert(folder, encoder_only=True), "AutoModel")(tmp_path / "deep")
    flags = ("--model", deep, "--method", "reslora_ms", "--max_steps", 2, "--evaluate", "none")
    ours, published = (
        json.loads((train(*flags, *more, output=f"run{len(more)}")[1] / "merge_report.json").read_text())
        for more in ((), ("--alpha_from", "inputs"))
    )
    assert ours["blocks"] == published["blocks"]
    before, blocks = (report["other_approaches"]["weights"] for report in (ours, published))
    first, middle, last = (f"bert.encoder.layer.{layer}.attention.self.query" for layer in range(3))
    ratios = [blocks[one]["input_norm"] / blocks[last]["input_norm"] for one in (middle, first)]
    assert blocks[last]["alphas"] == pytest.approx(ratios, rel=1e-6)
    assert before[last]["alphas"] != pytest.approx(ratios, rel=1e-6)
    with pytest.raises(ValueError, match=r"--alpha_from inputs is for reslora_ms .* --method is lora"):
        train("--method", "lora", "--alpha_from", "inputs")


@pytest.mark.parametrize("method", ["reslora_is", "lokr", "full"])
def test_what_one_task_gave_starts_another(train, bert, method, caplog):
    _, first = train("--method", method, "--save_fused", "--evaluate", "none", task="mnli", output="mnli")
    words = transformers.AutoTokenizer.from_pretrained(first / "fused").get_vocab()
    assert words == transformers.AutoTokenizer.from_pretrained(bert).get_vocab()
    result, _ = train("--model", first / "fused", "--method", "lora")
    assert "a new one trains" in caplog.text and "accuracy" in result["results"]["unmerged"]
    assert result["calibration_rows"] == 8


def test_a_resumed_run_is_the_straight_one_head_and_all(train):
    flags = ("--method", "reslora_is", "--save_steps", 4, "--lr_scheduler_type", "linear")
    straight, run = train(*flags, output="straight")
    train(*flags, output="resumed")
    resumed, again = train(*flags, "--resume_from_checkpoint", "checkpoint-4", output="resumed")
    assert losses(again) == losses(run) and resumed["results"] == straight["results"]
    mine, theirs = (load_tensors(folder / "trained_modules.safetensors")[0] for folder in (run, again))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(  # AdaLoRA takes ranks away at both steps
    ("method", "step"), [("adalora", 4), ("adalora", STEPS), ("loha", 4), ("lokr", 4), ("full", 4)]
)
def test_the_other_methods_resume_too_and_can_be_evaluated_later(train, method, step):
    rate = ("--learning_rate", 0.002) if method == "full" else ()
    flags = ("--method", method, "--save_steps", 4, *rate)
    straight, run = train(*flags, output="straight")
    train(*flags, "--evaluate", "none", output="resumed")
    resumed, again = train(*flags, "--resume_from_checkpoint", f"checkpoint-{step}", output="resumed")
    assert losses(again) == losses(run) and resumed["results"] == straight["results"]


def test_an_adalora_of_another_rank_is_refused(train):
    _, run = train("--method", "adalora", "--save_steps", 4, "--evaluate", "none")
    with pytest.raises(ValueError, match=r"other settings: --rank was \d+ and is 2\."):
        train("--method", "adalora", "--rank", 2, "--resume_from_checkpoint", "checkpoint-4")
    with pytest.raises(ValueError, match=r"adalora_state\.safetensors is of another model, rank or targets"):
        train("--method", "adalora", "--rank", 2, "--resume_from_checkpoint", run / "checkpoint-4", output="own")


@pytest.mark.parametrize("method", ["lora", "reslora_ms"])
def test_gradient_checkpointing_trains_the_same(train, method):
    plain = train("--method", method, "--evaluate", "none", output="plain")[1]
    checkpointed = train("--method", method, "--evaluate", "none", "--gradient_checkpointing", output="saving")[1]
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-6)


@pytest.mark.parametrize("method", ["reslora_bs", "adalora", "loha"])
def test_a_new_head_trains_in_float32_on_frozen_weights_in_half(train, method):
    result, run = train("--method", method, "--dtype", "float16", "--save_fused")
    assert losses(run)[-1] < losses(run)[0] and result["results"]["unmerged"]["accuracy"] == 1
    assert head_of(run, method).dtype == torch.float32


def test_scores_are_regressed(train):
    result, run = train(task="stsb")
    trained, base = result["results"]["unmerged"], result["results"]["base"]
    assert {"pearson", "spearman", "loss", "kl"} == trained.keys()
    assert trained["loss"] < base["loss"] and trained["pearson"] > 0.9
    said = read_jsonl(run / "answers.jsonl")
    off = [(float(one["answers"]["unmerged"]) - one["row"]["label"]) ** 2 for one in said]
    assert sum(off) / len(off) == pytest.approx(trained["loss"], rel=0.05) and "right" not in said[0]


def test_mnli_is_measured_on_both_of_its_sets(train, tmp_path):
    other = write_glue(tmp_path / "other.jsonl", "mnli", 9)
    result, run = train("--test_file_mismatched", other, task="mnli")
    assert {"accuracy (matched)", "accuracy (mismatched)"} < result["results"]["unmerged"].keys()
    assert result["dataset"]["test_rows"] == {"matched": 24, "mismatched": 9}
    said = [one for one in read_jsonl(run / "answers.jsonl") if one["set"] == "mismatched"]
    for name, figures in result["results"].items():
        right = [one["right"][name] for one in said]
        assert right == [one["answers"][name] == one["target"] for one in said]
        assert figures["accuracy (mismatched)"] == pytest.approx(sum(right) / 9)
    assert said[0]["prompt"].startswith("premise: ") and len(said) == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "sudoku"], "'sudoku'"),
        (["--test_file_mismatched", "other.jsonl"], "--test_file_mismatched is for mnli"),
        (["--max_length", "0"], "--max_length is 0"),
        (["--train_file", "none.jsonl"], "There is no file none.jsonl"),
        (["--task", "cola"], "lacks 'sentence'"),
        (["--target_modules", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(train, tmp_path, flags, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        train(*flags)
    assert re.search(message, str(caught.value))
    assert not (tmp_path / "run").exists()
