import json

import pytest

from reslora_sd.diffusion.arguments import make_parser, parse_settings, settings_of, to_arguments
from reslora_sd.diffusion.models import DEFAULT_MODEL

DIFFUSERS_FLAGS = """
pretrained_model_name_or_path revision variant dataset_name dataset_config_name train_data_dir image_column
caption_column validation_prompt num_validation_images validation_epochs max_train_samples output_dir
cache_dir seed resolution center_crop random_flip train_batch_size num_train_epochs max_train_steps
gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr lr_scheduler lr_warmup_steps
snr_gamma use_8bit_adam allow_tf32 dataloader_num_workers adam_beta1 adam_beta2 adam_weight_decay adam_epsilon
max_grad_norm push_to_hub hub_token prediction_type hub_model_id logging_dir mixed_precision report_to
local_rank checkpointing_steps checkpoints_total_limit resume_from_checkpoint
enable_xformers_memory_efficient_attention noise_offset rank image_interpolation_mode
""".split()


def test_every_flag_of_diffusers_script_is_known():
    known = {action.dest for action in make_parser()._actions}
    assert set(DIFFUSERS_FLAGS) <= known


def test_no_arguments_mean_the_embedded_model():
    args = parse_settings([])
    assert args.model.pretrained_model_name_or_path == str(DEFAULT_MODEL)
    assert (args.method.method, args.method.merge_approach) == ("reslora_is", "least_squares")
    assert args.training.max_train_steps == 200
    assert args.output.output_dir == "runs/reslora_is"
    assert args.validation.validation_prompts == ["cat face", "penguin", "birthday cake", "red apple"]
    assert (args.validation.validation_steps, args.validation.validation_epochs) == (20, None)


def test_epochs_that_are_given_count_with_the_embedded_model_too():
    training = parse_settings(["--num_train_epochs", "1"]).training
    assert (training.max_train_steps, training.num_train_epochs) == (None, 1)
    both = parse_settings(["--num_train_epochs", "1", "--max_train_steps", "7"]).training
    assert both.max_train_steps == 7


def test_prompts_without_an_interval_are_drawn_every_epoch():
    words = ["--pretrained_model_name_or_path", "somewhere", "--validation_prompts", "a cat"]
    assert parse_settings(words).validation.validation_epochs == 1
    assert parse_settings([*words, "--validation_steps", "5"]).validation.validation_epochs is None


def test_nobodys_own_pictures_are_left_out_unasked():
    own, none = (
        parse_settings(["--train_data_dir", "pictures"]),
        parse_settings(["--pretrained_model_name_or_path", "somewhere"]),
    )
    assert (own.data.max_train_samples, own.validation.validation_samples) == (None, 0)
    assert (none.data.max_train_samples, none.validation.validation_samples) == (576, 64)


def test_another_model_gets_diffusers_defaults():
    args = parse_settings(["--pretrained_model_name_or_path", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
    training, validation = args.training, args.validation
    assert (args.optimizer.learning_rate, training.train_batch_size, training.max_train_steps) == (1e-4, 16, None)
    assert (training.min_timestep, training.max_timestep, training.num_train_epochs) == (0, None, 100)
    assert validation.validation_prompts == [] and validation.validation_steps is None


@pytest.mark.parametrize(
    ("method", "approach"),
    [
        ("lora", "exact"),
        ("reslora_bs", "exact"),
        ("reslora_is", "least_squares"),
        ("reslora_ms", "least_squares"),
        ("reslora_frozen", "exact"),
    ],
)
def test_the_merge_follows_the_method(method, approach):
    settings = parse_settings(["--method", method]).method
    assert settings.merge_approach == approach and settings.adapter().method == method


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    values = {
        "method": "reslora_ms",
        "rank": 8,
        "center_crop": True,
        "cache_latents": False,
        "validation_prompts": ["a", "b"],
    }
    path.write_text(json.dumps(values))  # JSON is YAML too
    args = parse_settings(["--config", str(path), "--rank", "2"])
    assert (args.method.method, args.method.rank) == ("reslora_ms", 2)
    assert (args.data.center_crop, args.data.cache_latents) == (True, False)
    assert args.validation.validation_prompts == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "words"),
    [({"rnak": 8}, "'rnak', which is no flag"), ({"center_crop": "yes"}, "true or false"), ([1], "no table")],
)
def test_a_config_file_is_checked(tmp_path, values, words):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=words):
        parse_settings(["--config", str(path)])
    with pytest.raises(ValueError, match="isn't there"):
        parse_settings(["--config", str(tmp_path / "missing.json")])


def test_prompts_can_come_from_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    settings = parse_settings(["--validation_prompts", str(tmp_path / "prompts.txt")])
    assert settings.validation.validation_prompts == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rank", "0"], "rank"),
        (["--train_batch_size", "0"], "--train_batch_size is 0"),
        (["--learning_rate", "-1"], "--learning_rate is -1"),
        (["--merge_approach", "exact"], "doesn't fit --method reslora_is"),
        (["--merge_rank", "4"], "--merge_rank"),
        (["--cache_latents", "--random_flip"], "Choose one"),
        (["--method", "reslora_is", "--pre_num", "3"], "pre_num is 3"),
        (["--dataloader_num_workers", "-1"], "--dataloader_num_workers is -1"),
        (["--validation_prompts", "nowhere.txt"], "isn't there"),
        (["--noise_offset", "-0.1"], r"--noise_offset is -0\.1\. It must be 0 or more"),
        (["--noise_offset", "nan"], "--noise_offset is nan"),
        (["--snr_gamma", "inf"], r"--snr_gamma is inf\. It must be a finite number"),
        (["--lora_alpha", "inf"], "--lora_alpha is inf"),
        (["--seed", "-1"], r"--seed is -1\. It must be from 0"),
        (["--learning_rate", "inf"], "--learning_rate is inf"),
        (["--learning_rate", "nan"], "--learning_rate is nan"),
        (["--lr_warmup_steps", "-1"], "--lr_warmup_steps is -1"),
        (["--adam_beta1", "1.5"], r"--adam_beta1 is 1\.5\. It must be at least 0 and below 1"),
        (["--adam_beta2", "nan"], "--adam_beta2 is nan"),
        (["--adam_weight_decay", "-1"], "--adam_weight_decay is -1"),
        (["--adam_epsilon", "0"], r"--adam_epsilon is 0\.0\. It must be above 0"),
        (["--max_grad_norm", "nan"], "--max_grad_norm is nan"),
        (["--lr_num_cycles", "2"], "--lr_num_cycles is 2 and --lr_scheduler constant, which doesn't use it"),
        (["--lr_power", "2", "--lr_scheduler", "linear"], r"--lr_power is 2\.0 and --lr_scheduler linear"),
        (["--num_validation_images", "-1"], "--num_validation_images is -1"),
        (["--validation_guidance_scale", "nan"], "--validation_guidance_scale is nan"),
        (
            ["--method", "reslora_ms", "--alpha_from", "inputs", "--no_report"],
            "--alpha_from inputs changes the merge `weights` alone.*--merge_approach weights",
        ),
    ],
)
def test_a_bad_value_is_named(argv, words):
    with pytest.raises(ValueError, match=words):
        parse_settings(argv)


@pytest.mark.parametrize(
    "argv", [["--method", "dora"], ["--no_such_flag"], ["--metho", "lora"], ["--num_train_epoch", "3"]]
)
def test_an_unknown_method_or_flag_ends_with_argparses_message(argv, capsys):
    with pytest.raises(SystemExit):
        parse_settings(argv)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mixed_precision: no\nreport_to: no", ("no", "none", None)),
        ("cache_latents: false", (None, "none", False)),
        ("cache_latents: 'false'", (None, "none", False)),
        ("cache_latents: null", (None, "none", None)),
        ("cache_latents: True\nmixed_precision: fp16", ("fp16", "none", True)),
    ],
)
def test_yaml_means_what_it_says(tmp_path, text, expected):
    (tmp_path / "run.yaml").write_text(text)
    args = parse_settings(["--config", str(tmp_path / "run.yaml")])
    assert (args.training.mixed_precision, args.output.report_to, args.data.cache_latents) == expected


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--num_train_epochs", "3"],
        ["--validation_prompt", "-a prompt that looks like a flag.txt", "--validation_epochs", "2"],
        ["--no-cache_latents", "--center_crop", "--method", "reslora_bs", "--pre_num", "-1", "--merge_rank", "4"],
        ["--cache_latents", "--train_data_dir", "pictures", "--mixed_precision", "no", "--learning_rate", "3e-5"],
        ["--pretrained_model_name_or_path", "elsewhere", "--validation_prompts", "a", "b", "--snr_gamma", "5"],
        ["--pretrained_model_name_or_path", "elsewhere", "--target_modules", "attn2.to_k", "--report_to", "all"],
    ],
)
def test_run_json_parses_back_to_the_same_settings(argv):
    if argv[:1] == ["--validation_prompt"]:  # argparse takes a word that starts with - for a flag
        argv = [f"{argv[0]}={argv[1]}", *argv[2:]]
    settings = parse_settings(argv)
    written = json.loads(json.dumps(to_arguments(settings)))
    assert settings_of(written) == settings


def test_settings_of_another_version_are_refused_by_name():
    with pytest.raises(ValueError, match=r"run\.json has 'rnak', which is no flag"):
        settings_of({"rnak": 4})
    with pytest.raises(ValueError, match=r"run\.json has rank: 2\.5\. It must be a whole number"):
        settings_of({"rank": 2.5})
