"""The tables of both text scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.flags import Table
from tests.text.flags.seen import Seen
from tests.texts import save_small_bert, save_small_llama, write_glue, write_svamp

NLG: Table[Seen] = Table()
NLU: Table[Seen] = Table()
Check = Callable[[Seen, Seen], None]
FEW = (
    *("--max_train_samples", 9, "--max_eval_samples", 5, "--validation_samples", 2, "--eval_batch_size", 4),
    *("--calibration_samples", 6),
)
BS = ("--method", "reslora_bs")
FROZEN = ("--method", "reslora_frozen")
DEEP = (*BS, "--model", "@deep")
OTHER = ("--task", "gsm8k", "--train_file", "@gsm8k", "--test_file", "@gsm8k_test", "--model", "@deep")
OTHER_PAIRS = (
    *("--task", "mnli", "--train_file", "@mnli", "--test_file", "@mnli_test", "--model", "@deep"),
    *("--max_length", 10),
)
WRITTEN = ("--output_dir", "mine/here", "--report_to", "tensorboard", "--logging_steps", 2)
SCHEDULED = ("--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"power": 2}', "--warmup_steps", 1)
EPOCH = ("--num_train_epochs", 1, "--max_steps", None, "--per_device_train_batch_size", 5)


def both(flag: str, *words: Any, **more: Any) -> Callable[[Check], Check]:
    """Enters the check that follows for both scripts."""

    def enter(check: Check) -> Check:
        return NLU.row(flag, *words, **more)(NLG.row(flag, *words, **more)(check))

    return enter


def make_deep(save: Callable[[Path], Path], kind: str) -> Callable[[Path], Path]:
    """What makes the same model with three layers and other weights."""

    def make(folder: Path) -> Path:
        config = transformers.AutoConfig.from_pretrained(save(folder), num_hidden_layers=3)
        torch.manual_seed(1)
        getattr(transformers, kind).from_config(config).save_pretrained(folder)
        return folder

    return make


def make_config(file: Path) -> Path:
    file.write_text(json.dumps({"rank": 3}))
    return file


def write_gsm8k(path: Path, rows: int) -> Path:
    answer = "It is one more.\n#### "
    lines = [json.dumps({"question": f"What is {i} + 1?", "answer": f"{answer}{i + 1}"}) for i in range(rows)]
    path.write_text("\n".join(lines))
    return path


COMMON = {"@config": make_config}
NLG_FILES: dict[str, Callable[[Path], Path]] = {
    "@model": save_small_llama,
    "@deep": make_deep(save_small_llama, "AutoModelForCausalLM"),
    "@train": lambda path: write_svamp(path, 24),
    "@test": lambda path: write_svamp(path, 8, first=100),
    "@gsm8k": lambda path: write_gsm8k(path, 12),
    "@gsm8k_test": lambda path: write_gsm8k(path, 3),
    **COMMON,
}
NLU_FILES: dict[str, Callable[[Path], Path]] = {
    "@model": lambda folder: save_small_bert(folder, encoder_only=True),
    "@deep": make_deep(lambda folder: save_small_bert(folder, encoder_only=True), "AutoModel"),
    "@train": lambda path: write_glue(path, "rte", 24),
    "@test": lambda path: write_glue(path, "rte", 8),
    "@mnli": lambda path: write_glue(path, "mnli", 12, first=50),
    "@mnli_test": lambda path: write_glue(path, "mnli", 3),
    **COMMON,
}

NLG.see(
    method="test_train_nlg.py::test_our_methods_train_merge_and_are_loaded_by_peft",
    max_length="test_train_nlg.py::test_too_long_rows_are_counted_and_said",
    alpha_from="test_train_nlu.py::test_the_published_reading_of_eq_13_is_a_flag",
    eval_strategy="test_evaluating.py::test_the_best_weights_are_taken_and_kept",
    load_best_model_at_end="test_evaluating.py::test_the_best_weights_are_taken_and_kept",
    measure_epochs="test_evaluating.py::test_the_metric_is_measured_after_epochs_and_the_training_stays_as_it_was",
    max_new_tokens="test_train_nlg.py::test_answers_are_cut_after_so_many_tokens",
    save_fused="test_train_nlg.py::test_a_fused_model_needs_nothing_of_ours",
    overwrite_output_dir="test_train_nlg.py::test_a_run_that_is_there_is_not_overwritten_unasked",
    resume_from_checkpoint="test_train_nlg.py::test_a_resumed_run_is_the_straight_one",
    save_steps="test_train_nlg.py::test_a_resumed_run_is_the_straight_one",
    bf16="test_train_nlg.py::test_a_run_at_its_end_is_only_evaluated",
    gradient_checkpointing="test_train_nlg.py::test_gradient_checkpointing_trains_the_same",
    logging_nan_inf_filter="test_train_nlg.py::test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved",
    save_total_limit="test_stop_and_resume.py::test_the_limit_removes_the_oldest_of_the_path_that_was_taken",
)
NLU.see(
    method="test_train_nlu.py::test_every_method_learns_and_its_head_trains",
    measure_epochs="test_evaluating.py::test_the_metric_is_measured_after_epochs_and_the_training_stays_as_it_was",
    save_fused="test_train_nlu.py::test_peft_loads_adapter_and_head",
    alpha_from="test_train_nlu.py::test_the_published_reading_of_eq_13_is_a_flag",
    new_head="test_train_nlu.py::test_a_new_head_trains_where_the_model_has_one_if_that_is_asked",
    test_file_mismatched="test_train_nlu.py::test_mnli_is_measured_on_both_of_its_sets",
    overwrite_output_dir="test_stop_and_resume.py::test_overwriting_leaves_no_weights_of_the_old_run",
    resume_from_checkpoint="test_train_nlu.py::test_a_resumed_run_is_the_straight_one_head_and_all",
    save_steps="test_train_nlu.py::test_a_resumed_run_is_the_straight_one_head_and_all",
    gradient_checkpointing="test_train_nlu.py::test_gradient_checkpointing_trains_the_same",
)


def ranks(it: Seen) -> set[int]:
    return {min(value.shape) for value in it.saved().values()}


@both("rank", "--rank", 2)
def every_factor_has_so_many_rows_or_columns(it: Seen, plain: Seen) -> None:
    assert ranks(it) == {2}


@both("config", "--config", "@config")
def its_flags_count(it: Seen, plain: Seen) -> None:
    assert ranks(it) == {3}


@NLG.row("target_modules", "--target_modules", "o_proj")
@NLU.row("target_modules", "--target_modules", "key")
def only_these_linears_get_blocks(it: Seen, plain: Seen) -> None:
    assert {name.rsplit(".", 2)[1] for name in it.saved()} <= {"o_proj", "key"}


def starts_alike_and_goes_on_otherwise(it: Seen, plain: Seen) -> None:
    """lora_B is zero in the first step, so that its loss is the base model's."""
    assert it.column("loss")[0] == pytest.approx(plain.column("loss")[0], rel=1e-6)
    assert it.column("loss")[1:] != pytest.approx(plain.column("loss")[1:], rel=1e-5)


@both("lora_alpha", "--lora_alpha", 4)
def branches_are_scaled_by_it(it: Seen, plain: Seen) -> None:
    starts_alike_and_goes_on_otherwise(it, plain)
    assert it.column("grad_norm")[0] < plain.column("grad_norm")[0]


@both("lora_dropout", "--lora_dropout", 0.5)
def branches_see_other_inputs(it: Seen, plain: Seen) -> None:
    assert it.column("grad_norm")[0] != pytest.approx(plain.column("grad_norm")[0], rel=1e-4)


@both("first_block", "--first_block", "none")
def the_first_block_of_a_chain_is_no_longer_doubled(it: Seen, plain: Seen) -> None:
    starts_alike_and_goes_on_otherwise(it, plain)
    assert it.column("grad_norm")[0] < plain.column("grad_norm")[0]


@both("pre_num", *DEEP, "--pre_num", 1, without=DEEP)
def blocks_use_at_most_so_many_others(it: Seen, plain: Seen) -> None:
    starts_alike_and_goes_on_otherwise(it, plain)


@both("dtype", "--dtype", "bfloat16")
def frozen_weights_are_half_and_the_adapter_is_not(it: Seen, plain: Seen) -> None:
    assert it.dtypes == {torch.bfloat16} and {value.dtype for value in it.saved().values()} == {torch.float32}


@NLG.row("model", *OTHER)
@NLU.row("model", *OTHER_PAIRS)
def that_model_is_trained(it: Seen, plain: Seen) -> None:
    layers = {name.split("layers.")[-1].split("layer.")[-1].split(".")[0] for name in it.saved()}
    assert layers == {"0", "1", "2"}


@NLG.row("task", *OTHER)
def rows_are_read_as_that_tasks(it: Seen, plain: Seen) -> None:
    assert any("It is one more." in text for text in it.texts())


@NLU.row("task", *OTHER_PAIRS)
def labels_are_that_tasks(it: Seen, plain: Seen) -> None:
    assert {int(label) for batch in it.batches for label in batch["labels"]} == {0, 1, 2}
    assert "accuracy (matched)" in it.result["results"]["unmerged"]


@NLG.row("train_file", *OTHER)
@NLU.row("train_file", *OTHER_PAIRS)
def its_rows_are_trained_on(it: Seen, plain: Seen) -> None:
    assert it.result["dataset"]["train_rows"] == 12
    assert not it.texts() & plain.texts()


@NLG.row("test_file", *OTHER)
@NLU.row("test_file", *OTHER_PAIRS)
def its_rows_are_evaluated(it: Seen, plain: Seen) -> None:
    assert it.result["dataset"]["test_rows"] in (3, {"matched": 3})
    assert min(it.evaluated) == 3


@NLU.row("max_length", *OTHER_PAIRS)
def longer_rows_are_cut_and_counted(it: Seen, plain: Seen) -> None:
    assert max(batch["input_ids"].shape[1] for batch in it.batches) <= 10
    assert it.result["dataset"]["cut"] > 0 and "over --max_length 10 tokens: cut" in it.said


@both("max_train_samples", *FEW)
def so_many_rows_are_drawn(it: Seen, plain: Seen) -> None:
    assert it.result["dataset"]["train_rows"] == 9 - 2 and len(it.texts()) <= 7


@both("validation_samples", *FEW)
def so_many_of_them_are_kept_apart_and_measured(it: Seen, plain: Seen) -> None:
    assert it.result["validation_loss"] is not None and 2 in it.evaluated


@both("max_eval_samples", *FEW)
def so_many_test_rows_are_evaluated(it: Seen, plain: Seen) -> None:
    rows = it.result["dataset"]["test_rows"]
    assert (rows if isinstance(rows, int) else sum(rows.values())) == 5


@both("eval_batch_size", *FEW)
def no_forward_pass_has_more_rows(it: Seen, plain: Seen) -> None:
    assert max(it.evaluated) == 4


@both("path_samples", *FROZEN, "--path_samples", 6, without=FROZEN)
def paths_are_measured_on_so_many_rows(it: Seen, plain: Seen) -> None:
    said, usual = (json.loads((one.run / "run.json").read_text())["frozen_paths"] for one in (it, plain))
    assert said["rows"] == 6 < usual["rows"] and said["explained"].keys() == usual["explained"].keys()
    assert it.column("loss")[0] == pytest.approx(plain.column("loss")[0], rel=1e-6)
    assert it.column("grad_norm")[1:] != plain.column("grad_norm")[1:]


@both("calibration_samples", *FEW)
def statistics_are_taken_from_so_many_rows(it: Seen, plain: Seen) -> None:
    assert it.result["calibration_rows"] == 6 and it.evaluated[:3] == [2, 4, 2]  # the rows kept apart come first


@both("evaluate", "--evaluate", "none")
def no_variant_is_measured(it: Seen, plain: Seen) -> None:
    assert it.result["results"] == {} and plain.result["results"]


@both("output_dir", *WRITTEN)
def the_run_is_there(it: Seen, plain: Seen) -> None:
    assert it.run == it.place / "mine" / "here"


@both("report_to", *WRITTEN)
def the_tracker_writes(it: Seen, plain: Seen) -> None:
    assert list(it.run.rglob("events.out.tfevents.*"))


@both("logging_steps", *WRITTEN)
def the_log_has_a_row_every_so_many_steps_and_the_result_counts_all(it: Seen, plain: Seen) -> None:
    assert it.column("step") == [2] and it.result["steps"] == 3


@both("seed", "--seed", 7)
def rows_and_adapter_are_others(it: Seen, plain: Seen) -> None:
    assert it.column("loss")[0] != plain.column("loss")[0] and it.texts() != plain.texts()
    assert it.result["seed"] == 7


@NLG.row("max_steps", "--max_steps", 2)
def the_run_has_so_many_steps(it: Seen, plain: Seen) -> None:
    assert it.column("step") == [1, 2] and it.result["steps"] == 2


@NLG.row("num_train_epochs", *EPOCH)
def each_row_is_seen_once(it: Seen, plain: Seen) -> None:
    assert [len(batch["labels"]) for batch in it.batches] == [5, 5, 5, 5, 4]
    assert it.column("step") == [1, 2, 3, 4, 5] and it.result["results"]


@NLG.row("per_device_train_batch_size", *EPOCH)
def a_batch_has_so_many_rows(it: Seen, plain: Seen) -> None:
    assert len(it.batches[0]["labels"]) == 5


@NLG.row("dataloader_drop_last", *EPOCH, "--dataloader_drop_last", without=EPOCH)
def a_rest_is_left_out_and_the_run_is_whole(it: Seen, plain: Seen) -> None:
    assert [len(batch["labels"]) for batch in it.batches] == [5, 5, 5, 5]
    assert it.result["steps"] == 4 and it.result["results"]


@NLG.row("gradient_accumulation_steps", "--gradient_accumulation_steps", 2)
def a_step_adds_up_so_many_batches(it: Seen, plain: Seen) -> None:
    assert len(it.batches) == 2 * len(it.column("step")) == 6


@NLG.row("learning_rate", "--learning_rate", 0.01)
def the_rate_is_that(it: Seen, plain: Seen) -> None:
    assert it.column("lr") == [0.01] * 3


@NLG.row("lr_scheduler_type", *SCHEDULED)
def the_rate_falls(it: Seen, plain: Seen) -> None:
    assert it.column("lr")[2] < it.column("lr")[1]


@NLG.row("lr_scheduler_kwargs", *SCHEDULED)
def the_schedule_takes_them(it: Seen, plain: Seen) -> None:
    assert it.column("lr")[2] == pytest.approx(0.02 / 4, rel=1e-3)  # halfway, by the power of 2


@NLG.row("warmup_steps", *SCHEDULED)
def the_rate_rises_from_zero_over_them(it: Seen, plain: Seen) -> None:
    assert it.column("lr")[:2] == [0, 0.02]
