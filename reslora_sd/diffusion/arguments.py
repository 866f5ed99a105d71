"""The command line of train_text_to_image_reslora.py: diffusers' flags with their names and meaning, and ours.

Source of the shared flags: huggingface/diffusers, examples/text_to_image/train_text_to_image_lora.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import ResLoRAConfig
from ..runs.names import APPROACHES, METHODS, OPENMOJI, default_approach
from .config_file import config_flag, tokens
from .models import DEFAULT_MODEL

_EMBEDDED: dict[str, Any] = {
    "max_train_steps": 200,
    "learning_rate": 5e-4,
    "train_batch_size": 4,
    "max_timestep": 600,
    "validation_steps": 20,
    "validation_prompts": ["cat face", "penguin", "birthday cake", "red apple"],
    "validation_guidance_scale": 4.0,
    "validation_inference_steps": 20,
}
"""Defaults for the embedded model, where they differ from diffusers'."""
_DEFAULT_DATA: dict[str, Any] = {"max_train_samples": 576, "validation_samples": 64}
"""Defaults where no data is given, so that OpenMoji is used. Nobody's own pictures are left out unasked."""
_DIFFUSERS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "train_batch_size": 16,
    "validation_guidance_scale": 7.5,
    "validation_inference_steps": 25,
}
_SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags, fills in defaults that depend on others, and checks what can be checked without data.

    Raises:
        ValueError: a value is out of range, or two flags contradict each other.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    config = config_flag(argv)
    return _complete(parser.parse_args([*(tokens(parser, config) if config else []), *argv]))


def make_parser() -> argparse.ArgumentParser:
    """All flags, in groups; their help texts are the reference."""
    parser = argparse.ArgumentParser(
        description="Fine-tunes the U-Net of Stable Diffusion 1.x or 2.x with LoRA or ResLoRA, and merges.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="JSON or YAML with flags; the command line wins.")
    _add_method(parser.add_argument_group("method (ours)"))
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_training(parser.add_argument_group("training"))
    _add_optimizer(parser.add_argument_group("optimizer and schedule"))
    _add_validation(parser.add_argument_group("validation"))
    _add_output(parser.add_argument_group("output, checkpoints and trackers"))
    return parser


def _add_method(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--method", choices=list(METHODS), default="reslora_is", help="LoRA, or ResLoRA by Eq. 2, 3 or 4.")
    add("--rank", type=int, default=16, help="Rank of every block (diffusers: 4).")
    add("--lora_alpha", type=float, default=32.0, help="Branches are scaled by lora_alpha / rank.")
    add("--lora_dropout", type=float, default=0.0)
    add("--pre_num", type=int, help="Predecessors of reslora_bs and reslora_ms; -1 for all (left out: 4).")
    add("--first_block", choices=["self", "none"], default="self", help="What reslora_is adds where a chain starts.")
    add(
        "--link", choices=["neighbour", "same_size"], default="neighbour", help="Which earlier block a path comes from."
    )
    add("--across_attention", action="store_true", help="One chain through self- and cross-attention in turn.")
    add("--target_modules", nargs="+", default=["to_q", "to_k", "to_v", "to_out.0"], help="Ends of module paths.")
    add(
        "--merge_approach",
        choices=sorted({one for kinds in APPROACHES.values() for one in kinds}),
        help="How paths are merged away (left out: exact for lora and reslora_bs, least_squares else).",
    )
    add("--calibration_samples", type=int, default=512, help="Noisy pictures that merging takes its statistics from.")
    add("--merge_rank", type=int, help="reslora_bs: cut the exact merge to this rank by SVD.")


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pretrained_model_name_or_path", default=str(DEFAULT_MODEL), help="Pipeline folder or Hub name.")
    add("--revision", help="Revision of the model on the Hub.")
    add("--variant", help="Variant of the model files, for example fp16.")
    add("--prediction_type", choices=["epsilon", "v_prediction"], help="Instead of what the scheduler says.")


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset_name", help=f"Data set of the Hub, or '{OPENMOJI}' (used where no data is given).")
    add("--dataset_config_name", help="Configuration of the Hub data set.")
    add("--train_data_dir", help="Folder of pictures with metadata.jsonl or .txt files, or of parquet files.")
    add("--image_column", help="Column of pictures (left out: found by name).")
    add("--caption_column", help="Column of captions (left out: found by name).")
    add("--max_train_samples", type=int, help="Use at most so many pictures (without data of your own: 576).")
    add("--resolution", type=int, help="Pixels of a side (left out: the model's own; diffusers: 512).")
    add("--center_crop", action="store_true", help="Crop the centre instead of a random place.")
    add("--random_flip", action="store_true", help="Mirror half of the pictures.")
    add(
        "--image_interpolation_mode",
        default="lanczos",
        choices=["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"],
    )
    add(
        "--cache_latents",
        action=argparse.BooleanOptionalAction,
        help="Run VAE once for all pictures (left out: on unless crops or flips are random).",
    )
    add("--cache_dir", help="Where Hub models and data sets are kept.")


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--seed", type=int, default=42, help="Seed of everything that is drawn.")
    add("--train_batch_size", type=int, help="Pictures of one process and step (left out: 16; embedded model: 4).")
    add("--num_train_epochs", type=int, default=100, help="Used where max_train_steps is left out.")
    add("--max_train_steps", type=int, help="Optimizer steps (left out: by epochs; embedded model: 200).")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--gradient_checkpointing", action="store_true", help="Less memory for a slower backward pass.")
    add("--mixed_precision", choices=["no", "fp16", "bf16"], help="Frozen weights and products in half precision.")
    add("--allow_tf32", action="store_true", help="TF32 products on Ampere and newer.")
    add("--snr_gamma", type=float, help="Min-SNR weights; 5.0 is usual.")
    add("--noise_offset", type=float, default=0.0, help="Scale of noise offset.")
    add("--min_timestep", type=int, default=0, help="Train from this timestep on (kohya's name).")
    add(
        "--max_timestep",
        type=int,
        help="Train below this timestep (kohya's name): the highest decide what is where, "
        "lower ones how it is drawn. Left out: all of the schedule; embedded model: 600.",
    )
    add("--dataloader_num_workers", type=int, default=0, help="Must be 0: batches are made from what is in memory.")
    add(
        "--enable_xformers_memory_efficient_attention",
        action="store_true",
        help="Accepted for old commands: PyTorch's own memory-efficient attention is always used.",
    )
    add("--local_rank", type=int, default=-1, help="Set by old launchers; accelerate reads the environment.")


def _add_optimizer(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--learning_rate", type=float, help="Left out: 1e-4; embedded model: 5e-4.")
    add("--scale_lr", action="store_true", help="Times processes, accumulation and batch size.")
    add("--lr_scheduler", choices=_SCHEDULES, default="constant")
    add("--lr_warmup_steps", type=int, default=0, help="Optimizer steps (diffusers: 500, unused by 'constant').")
    add("--use_8bit_adam", action="store_true", help="bitsandbytes' AdamW8bit.")
    add("--adam_beta1", type=float, default=0.9)
    add("--adam_beta2", type=float, default=0.999)
    add("--adam_weight_decay", type=float, default=1e-2)
    add("--adam_epsilon", type=float, default=1e-8)
    add("--max_grad_norm", type=float, default=1.0, help="Gradients are clipped to this norm.")


def _add_validation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--validation_prompts", nargs="+", metavar="PROMPT", help="Prompts, or one text file with a prompt a line.")
    add(
        "--validation_samples",
        type=int,
        help="Keep so many pictures out of training, and log their loss (left out: 0; without data of your own: 64).",
    )
    add("--validation_prompt", help="One prompt (diffusers' name).")
    add("--validation_steps", type=int, help="Draw every so many steps, and at step 0 (embedded model: 20).")
    add("--validation_epochs", type=int, help="Draw every so many epochs, where validation_steps is left out.")
    add("--num_validation_images", type=int, default=1, help="Pictures of each prompt, seeds seed, seed + 1, ...")
    add("--validation_negative_prompt", default="")
    add("--validation_guidance_scale", type=float, help="Left out: 7.5; embedded model: 4.")
    add("--validation_inference_steps", type=int, help="Left out: 25; embedded model: 20.")


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--output_dir", help="Run folder (left out: runs/METHOD).")
    add("--overwrite_output_dir", action="store_true", help="Replace a run that is there.")
    add("--checkpointing_steps", type=int, default=500, help="Checkpoint every so many optimizer steps.")
    add("--checkpoints_total_limit", type=int, help="Keep at most so many checkpoints.")
    add("--resume_from_checkpoint", metavar="NAME", help="'latest', checkpoint-STEP, or a path.")
    add("--report_to", default="none", help="tensorboard, wandb, comet_ml or all; log.jsonl is always written.")
    add("--logging_dir", default="logs", help="Trackers' folder inside output_dir.")
    add("--push_to_hub", action="store_true", help="Upload the exported LoRA when training ends.")
    add("--hub_model_id", help="Repository on the Hub (left out: name of output_dir).")
    add("--hub_token", help="Token for the Hub.")


def lora_config(arguments: argparse.Namespace) -> ResLoRAConfig:
    """The adapter's settings."""
    return ResLoRAConfig(
        residual=METHODS[arguments.method],
        r=arguments.rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=tuple(arguments.target_modules),
        pre_num=arguments.pre_num,
        first_block=arguments.first_block,
        link=arguments.link,
        across_attention=arguments.across_attention,
    )


def _complete(arguments: argparse.Namespace) -> argparse.Namespace:
    embedded = Path(arguments.pretrained_model_name_or_path) == DEFAULT_MODEL
    given = arguments.dataset_name is not None or arguments.train_data_dir is not None
    defaults = {
        **(_EMBEDDED if embedded else _DIFFUSERS),
        **({"validation_samples": 0} if given else _DEFAULT_DATA),
    }
    for name, value in defaults.items():
        asked_otherwise = name == "validation_prompts" and arguments.validation_prompt is not None
        by_epochs = name == "validation_steps" and arguments.validation_epochs is not None
        if getattr(arguments, name) is None and not asked_otherwise and not by_epochs:
            setattr(arguments, name, value)
    arguments.output_dir = arguments.output_dir or f"runs/{arguments.method}"
    config = lora_config(arguments)
    arguments.merge_approach = arguments.merge_approach or default_approach(config.residual)
    if arguments.merge_approach not in APPROACHES[config.residual]:
        raise ValueError(
            f"--merge_approach {arguments.merge_approach} doesn't fit --method {arguments.method}. "
            f"Choose one of {', '.join(APPROACHES[config.residual])}."
        )
    if arguments.merge_rank is not None and (config.residual, arguments.merge_approach) != ("block", "exact"):
        raise ValueError("--merge_rank cuts the exact merge of reslora_bs only. Leave it out here.")
    arguments.validation_prompts = _prompts(arguments)
    _check_ranges(arguments)
    return arguments


def _prompts(arguments: argparse.Namespace) -> list[str]:
    prompts = list(arguments.validation_prompts or [])
    if len(prompts) == 1 and prompts[0].endswith(".txt"):
        path = Path(prompts[0])
        if not path.is_file():
            raise ValueError(f"--validation_prompts names the file {path}, which isn't there.")
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if arguments.validation_prompt is not None:
        prompts.append(arguments.validation_prompt)
    every = arguments.validation_steps or arguments.validation_epochs
    if every and not prompts:
        raise ValueError("--validation_steps is given without prompts. Add --validation_prompts 'a prompt'.")
    return prompts


def _check_ranges(arguments: argparse.Namespace) -> None:
    at_least_one = (
        "train_batch_size num_train_epochs max_train_steps gradient_accumulation_steps resolution max_train_samples "
        "validation_steps validation_epochs num_validation_images validation_inference_steps checkpointing_steps "
        "checkpoints_total_limit merge_rank calibration_samples"
    )
    for name in at_least_one.split():
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}. It must be 1 or more.")
    for name in ("learning_rate", "max_grad_norm", "snr_gamma"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} is {value}. It must be above 0.")
    if arguments.validation_samples < 0:
        raise ValueError(f"--validation_samples is {arguments.validation_samples}. It must be 0 or more.")
    if arguments.dataloader_num_workers:
        raise ValueError("--dataloader_num_workers must be 0: batches are made from what is in memory. Leave it out.")
    if arguments.cache_latents and arguments.random_flip:
        raise ValueError("--cache_latents keeps one latent of a picture, which --random_flip forbids. Choose one.")
