import json

import pytest

from reslora_sd.diffusion.arguments import lora_config, make_parser, parse_arguments
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
    args = parse_arguments([])
    assert args.pretrained_model_name_or_path == str(DEFAULT_MODEL)
    assert (args.method, args.merge_approach, args.max_train_steps) == ("reslora_is", "least_squares", 200)
    assert args.output_dir == "runs/reslora_is" and args.validation_prompts


def test_nobodys_own_pictures_are_left_out_unasked():
    own, none = parse_arguments(["--train_data_dir", "pictures"]), parse_arguments([])
    assert (own.max_train_samples, own.validation_samples) == (None, 0)
    assert (none.max_train_samples, none.validation_samples) == (576, 64)


def test_another_model_gets_diffusers_defaults():
    args = parse_arguments(["--pretrained_model_name_or_path", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
    assert (args.learning_rate, args.train_batch_size, args.max_train_steps) == (1e-4, 16, None)
    assert (args.min_timestep, args.max_timestep) == (0, None)
    assert not args.validation_prompts and args.validation_steps is None


@pytest.mark.parametrize(
    ("method", "approach"),
    [("lora", "exact"), ("reslora_bs", "exact"), ("reslora_is", "least_squares"), ("reslora_ms", "least_squares")],
)
def test_the_merge_follows_the_method(method, approach):
    args = parse_arguments(["--method", method])
    assert args.merge_approach == approach and lora_config(args).method == method


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
    args = parse_arguments(["--config", str(path), "--rank", "2"])
    assert (args.method, args.rank, args.center_crop, args.cache_latents) == ("reslora_ms", 2, True, False)
    assert args.validation_prompts == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "words"),
    [({"rnak": 8}, "'rnak', which is no flag"), ({"center_crop": "yes"}, "true or false"), ([1], "no table")],
)
def test_a_config_file_is_checked(tmp_path, values, words):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=words):
        parse_arguments(["--config", str(path)])
    with pytest.raises(ValueError, match="isn't there"):
        parse_arguments(["--config", str(tmp_path / "missing.json")])


def test_prompts_can_come_from_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    assert parse_arguments(["--validation_prompts", str(tmp_path / "prompts.txt")]).validation_prompts == [
        "a cat",
        "a dog",
    ]


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
        (["--dataloader_num_workers", "4"], "must be 0"),
        (["--validation_prompts", "nowhere.txt"], "isn't there"),
    ],
)
def test_a_bad_value_is_named(argv, words):
    with pytest.raises(ValueError, match=words):
        parse_arguments(argv)


@pytest.mark.parametrize("argv", [["--method", "dora"], ["--no_such_flag"], ["--metho", "lora"]])
def test_an_unknown_method_or_flag_ends_with_argparses_message(argv, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(argv)
    assert "error:" in capsys.readouterr().err
