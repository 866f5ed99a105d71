"""The text scripts' command lines, and the way back from run.json."""

import json

import pytest

from reslora_sd.text.arguments import CLASSIFICATION, GENERATION


def test_without_flags_a_real_run_is_meant():
    settings = GENERATION.parse(["--use_cpu"])
    training = settings.training
    assert (training.max_steps, training.per_device_train_batch_size, training.learning_rate) == (100, 8, 2e-3)
    assert (training.output_dir, training.report_to, training.logging_steps) == ("runs/svamp-reslora_is", [], 1)
    assert settings.to_arguments()["output_dir"] == "runs/svamp-reslora_is"
    other = CLASSIFICATION.parse(["--use_cpu", "--method", "full", "--output_dir", "here"]).training
    assert (other.max_steps, other.per_device_train_batch_size, other.output_dir) == (300, 16, "here")


@pytest.mark.parametrize(
    ("words", "steps", "epochs"),
    [
        ([], 100, 3.0),
        (["--max_steps", "7"], 7, 3.0),
        (["--num_train_epochs", "2"], -1, 2.0),
        (["--num-train-epochs=2"], -1, 2.0),
        (["--num_train_epochs", "2", "--max_steps", "7"], 7, 2.0),
    ],
)
def test_epochs_alone_count_in_epochs(words, steps, epochs):
    training = GENERATION.parse([*words, "--use_cpu"]).training
    assert (training.max_steps, training.num_train_epochs) == (steps, epochs)


def test_epochs_of_a_config_file_count_too(tmp_path):
    (tmp_path / "run.yaml").write_text("num_train_epochs: 2")
    words = ["--use_cpu", "--config", str(tmp_path / "run.yaml")]
    assert GENERATION.parse(words).training.max_steps == -1
    assert GENERATION.parse([*words, "--max_steps", "7"]).training.max_steps == 7


@pytest.mark.parametrize("word", ["--num_train_epoch", "--max_step", "--tas", "--resume"])
def test_an_abbreviation_is_refused_instead_of_training_something_else(word, capsys):
    with pytest.raises(SystemExit):
        GENERATION.parse([word, "3"])
    assert f"unrecognized arguments: {word} 3" in capsys.readouterr().err


def test_a_config_file_holds_our_flags_and_transformers_own(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "method: reslora_ms\ntarget_modules: [q_proj]\nsave_fused: true\nlearning_rate: 1e-4\n"
        "lr_scheduler_type: cosine\nlr_scheduler_kwargs: {num_cycles: 1.5}\nuse_cpu: yes\nreport_to: [tensorboard]\n"
        "include_num_input_tokens_seen: no\nmax_steps: null\nseed: 5\n"
    )
    settings = GENERATION.parse(["--config", str(tmp_path / "run.yaml"), "--seed", "6"])
    training = settings.training
    assert (settings.method.method, settings.method.target_modules) == ("reslora_ms", ["q_proj"])
    assert settings.output.save_fused and training.use_cpu and training.report_to == ["tensorboard"]
    assert (training.lr_scheduler_type, training.lr_scheduler_kwargs) == ("cosine", {"num_cycles": 1.5})
    assert (training.learning_rate, training.seed, training.max_steps) == (1e-4, 6, 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_scheduler_type": "sometimes"}, "lr_scheduler_type: 'sometimes'. It must be one of linear, cosine"),
        ({"warmup_ratios": 0.1}, "'warmup_ratios', which is no flag"),
        ({"max_steps": 2.5}, "max_steps: 2.5. It must be a whole number"),
        ({"bf16": "yes"}, "bf16: 'yes'. It must be true or false"),
        ({"task": "sudoku"}, "'sudoku'"),
    ],
)
def test_a_config_file_is_checked(tmp_path, values, message):
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        GENERATION.parse(["--use_cpu", "--config", str(tmp_path / "run.json")])


@pytest.mark.parametrize("script", [GENERATION, CLASSIFICATION])
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--num_train_epochs", "1.5"],
        ["--method", "reslora_bs", "--pre_num", "-1", "--target_modules", "q", "v", "--save_fused"],
        ["--method", "adalora", "--save_fused", "false", "--bf16", "false", "--no_remove_unused_columns"],
        ["--lr_scheduler_type", "cosine", "--warmup_steps", "0.1", "--report_to", "tensorboard", "--seed", "7"],
        ["--lr_scheduler_kwargs", '{"num_cycles": 2}', "--optim", "adafactor", "--label_names", "labels", "start"],
        ["--activation_checkpointing", "--gradient_accumulation_steps", "4", "--output_dir", "~/here"],
        ["--validation_samples", "3", "--max_train_samples", "9", "--evaluate", "none", "--no_skip_memory_metrics"],
    ],
)
def test_run_json_parses_back_to_the_same_settings(script, words):
    settings = script.parse([*words, "--use_cpu"])
    again = script.from_values(json.loads(json.dumps(settings.to_arguments())))
    assert again == settings


def test_run_json_has_every_field_of_ours_what_was_changed_and_what_readers_look_for():
    words = ["--use_cpu", "--save_steps", "9", "--hub_token", "secret", "--weight_decay", "0"]
    found = GENERATION.parse(words).to_arguments()
    ours = {"method", "rank", "pre_num", "model", "dtype", "task", "max_length", "evaluate", "overwrite_output_dir"}
    always = {"max_steps", "num_train_epochs", "learning_rate", "warmup_steps", "weight_decay", "seed", "bf16", "fp16"}
    assert ours | always | {"save_steps", "use_cpu"} <= found.keys()
    assert found["save_steps"] == 9 and "save_strategy" not in found  # 9 is no default, and the other one is
    assert "hub_token" not in found and "secret" not in json.dumps(found)


def test_a_table_of_another_version_is_refused_by_name():
    with pytest.raises(ValueError, match=r"run\.json has 'rnak', which is no flag"):
        GENERATION.from_values({"rnak": 4})


def test_the_best_checkpoint_needs_one_at_each_evaluation():
    best = ("--use_cpu", "--validation_samples", "4", "--load_best_model_at_end", "--eval_strategy", "steps")
    with pytest.raises(ValueError, match=r"--save_steps is 4 and --eval_steps 2\. Leave --save_steps out"):
        GENERATION.parse([*best, "--eval_steps", "2", "--save_steps", "4"])
    assert GENERATION.parse([*best, "--eval_steps", "2"]).training.save_steps == 2


@pytest.mark.parametrize(("words", "every"), [((), 1), (("--logging_steps", "3"), 3)])
def test_without_eval_steps_each_log_line_has_an_evaluation_and_a_checkpoint(words, every):
    steps = ("--eval_strategy", "steps", "--validation_samples", "4", *words)
    assert GENERATION.parse(["--use_cpu", *steps]).training.eval_steps == every
    training = GENERATION.parse(["--use_cpu", *steps, "--load_best_model_at_end"]).training
    assert (training.eval_steps, training.save_steps, training.save_strategy) == (every, every, "steps")
