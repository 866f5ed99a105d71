"""Every flag of the text scripts by its effect: the tables are in `flags/rows.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from transformers import TrainingArguments

from reslora_sd.text.arguments import CLASSIFICATION, GENERATION
from tests.flags import uses
from tests.text.flags.rows import NLG, NLG_FILES, NLU, NLU_FILES
from tests.text.flags.seen import Runs
from train_scripts import train_nlg_reslora, train_nlu_reslora

TRANSFORMERS = {field.name for field in dataclasses.fields(TrainingArguments)}
TABLES = {"nlg": NLG, "nlu": NLU}
ROWS = [(script, flag) for script, table in TABLES.items() for flag in table.rows]
ELSEWHERE = [(script, flag) for script, table in TABLES.items() for flag in table.elsewhere]
DROPPED = ("--dataloader_drop_last", "--num_train_epochs", 1, "--max_steps", None)
BEST = ("--eval_strategy", "epoch", "--load_best_model_at_end", "--validation_samples", 2)
INPUTS = {"--model": "@model", "--train_file": "@train", "--test_file": "@test"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    nlg, nlu = (tmp_path_factory.mktemp(script) for script in TABLES)
    return {
        "nlg": Runs(train_nlg_reslora.main, GENERATION, INPUTS, nlg, NLG_FILES),
        "nlu": Runs(train_nlu_reslora.main, CLASSIFICATION, {**INPUTS, "--task": "rte"}, nlu, NLU_FILES),
    }


@pytest.mark.parametrize(("table", "line"), [(NLG, GENERATION), (NLU, CLASSIFICATION)])
def test_the_tables_have_every_flag_of_ours_and_no_unknown_one(table, line):
    flags = {action.dest for action in line.parser()._actions} - {"help"}
    assert flags - TRANSFORMERS <= table.flags <= flags


@pytest.mark.parametrize("script", TABLES)
def test_transformers_own_flags_reach_its_trainer(runs, script):
    """All of them; those that our code reads, too, have rows."""
    assert runs[script](()).own_arguments


@pytest.mark.parametrize(("script", "flag"), ROWS)
def test_a_flag_does_what_its_row_says(runs, script, flag):
    TABLES[script].rows[flag].hold(runs[script])


@pytest.mark.parametrize(("script", "flag"), ELSEWHERE)
def test_a_test_elsewhere_is_there_and_uses_the_flag(script, flag):
    assert uses(TABLES[script].elsewhere[flag], flag, Path(__file__).parent)


@pytest.mark.parametrize("script", TABLES)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--eval_strategy", "steps"), "--eval_strategy is steps, and there are no rows .*--validation_samples"),
        (("--eval_on_start",), "--eval_on_start is True, and there are no rows to evaluate on while training"),
        (
            (*BEST, "--metric_for_best_model", "accuracy"),
            "lowest loss of the rows kept apart. Leave out --metric_for_best_model",
        ),
        (("--warmup_steps", 2), "--warmup_steps is 2.* and --lr_scheduler_type constant, which has no warm-up"),
        (("--per_device_train_batch_size", 25, *DROPPED), "24 training rows give no step: --per_device.* is 25 and"),
        (("--warmup_steps", 4, "--lr_scheduler_type", "linear"), r"--warmup_steps is 4.*, and the run has 3 steps"),
    ],
)
def test_what_the_scripts_cannot_follow_is_refused(runs, script, words, message):
    with pytest.raises(ValueError, match=message):
        runs[script](words)


@pytest.mark.parametrize("script", TABLES)
def test_flags_of_other_scripts_are_named(runs, script):
    run = runs[script](("--do_eval", "--per_device_eval_batch_size", 4, "--max_steps", 1, "--evaluate", "none"))
    assert "Not used here: --do_eval, --per_device_eval_batch_size." in run.said
    assert "Not used here" not in runs[script](()).said
