"""Whether a run may go on from a checkpoint, and with which changes of its settings. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..assets import DEFAULT_MODEL
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import RUN_FILE
from ..training.resuming import check_unchanged, checkpoint_to_resume, is_same_place
from .arguments import to_arguments
from .settings import UnetSettings
from .sources import Source, sources_of

FIXED = frozenset(
    """
    method rank lora_alpha lora_dropout pre_num first_block path_samples link across_attention target_modules
    train_text_encoder
    init_lora init_lora_partial
    pretrained_model_name_or_path pretrained_vae_model_name_or_path model_config tokenizer_name
    revision variant prediction_type
    dataset_name dataset_config_name dataset_config train_data_dir image_column caption_column max_train_samples
    validation_samples test_samples resolution center_crop random_flip image_interpolation_mode
    trigger_word shuffle_caption keep_tokens caption_dropout_rate caption_tag_dropout_rate
    max_token_length
    buckets bucket_step bucket_min bucket_max bucket_upscale
    with_prior_preservation class_data_dir class_prompt num_class_images prior_loss_weight
    masked_loss mask_data_dir unmasked_weight
    seed train_batch_size gradient_accumulation_steps snr_gamma noise_offset min_timestep max_timestep
    lr_scheduler lr_warmup_steps lr_num_cycles lr_power use_8bit_adam
    """.split()
)
"""Flags that stay what they were: what is trained, on which pictures in which order, for which loss."""
CHANGEABLE = frozenset(
    """
    merge_approach merge_rank alpha_from calibration_samples cache_dir cache_latents
    num_train_epochs max_train_steps gradient_checkpointing mixed_precision allow_tf32 dataloader_num_workers
    enable_xformers_memory_efficient_attention local_rank
    learning_rate text_encoder_lr scale_lr adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm
    validation_prompts validation_prompt validation_captions validation_steps validation_epochs num_validation_images
    validation_negative_prompt validation_guidance_scale validation_inference_steps
    output_dir overwrite_output_dir checkpointing_steps checkpoints_total_limit save_lora_steps save_lora_epochs
    save_precision resume_from_checkpoint report_to logging_dir
    push_to_hub hub_model_id hub_token hub_private_files report
    """.split()
)
"""Flags whose new value counts from the checkpoint on."""
MODEL_PATHS = ("pretrained_model_name_or_path", "pretrained_vae_model_name_or_path", "model_config", "tokenizer_name")
DATA_PATHS = ("train_data_dir", "dataset_config", "class_data_dir", "mask_data_dir")
"""Flags that name files or folders of the model and of the data: two names of one place are alike, and a page opens
them only where it may."""
_PATHS = (*MODEL_PATHS, *DATA_PATHS, "init_lora")

COPIES_KEY = "copies_left_out"
"""The entry of run.json's `dataset` that says how many pictures were left out, as their copies are kept out."""


def find_resumed(run: RunFolder, settings: UnetSettings) -> Path | None:
    """The checkpoint that the run goes on from, as `checkpoint_to_resume`; `None` where it starts.

    Raises:
        ValueError: the folder holds another run, a part of the checkpoint is missing or damaged, or a flag has another
            value than in the run, and is one of `FIXED`.
        FileNotFoundError: there is no such checkpoint.
    """
    output = settings.output
    checkpoint = checkpoint_to_resume(run, output.resume_from_checkpoint, output.overwrite_output_dir)
    check_unchanged(run, checkpoint, to_arguments(settings), breaks)
    _check_folders(run, checkpoint, settings)
    return checkpoint


def _check_folders(run: RunFolder, checkpoint: Path | None, settings: UnetSettings) -> None:
    """Whether the file of `--dataset_config` still describes what the run began with."""
    before = _dataset(run, checkpoint).get("folders")
    if not isinstance(before, list) or not settings.data.dataset_config:
        return
    now = [asdict(source) for source in sources_of(settings.data)]
    if len(before) != len(now):
        raise ValueError(_changed(run, f"{settings.data.dataset_config} had {len(before)} folders and has {len(now)}"))
    plain = asdict(Source())  # of keys that are newer than the run
    for number, (was, one) in enumerate(zip(before, now, strict=True), 1):
        was = {**plain, **was} if isinstance(was, dict) else plain
        for name, value in one.items():
            if was[name] != value and not (name in ("path", "mask") and is_same_place(was[name], value)):
                raise ValueError(
                    _changed(
                        run,
                        f"folder {number} of {settings.data.dataset_config} had {name} = {was[name]!r:.100} and has "
                        f"{value!r:.100}",
                    )
                )


def check_pictures(run: RunFolder, checkpoint: Path | None, now: Mapping[str, Any]) -> None:
    """Whether the pictures are as many, met as often and of the same sizes as where the run began.

    Args:
        now: what run.json would say of them.

    Raises:
        ValueError: they aren't; the rest of the run would see them in another order.
    """
    before = _dataset(run, checkpoint)
    for name in ("pictures", "in_an_epoch", "shapes"):
        if name in before and before[name] != now[name]:
            said = f"its data have changed: {name} was {before[name]!r:.200} and is {now[name]!r:.200}"
            raise ValueError(_changed(run, said))


def looked_for_copies(said: Mapping[str, Any]) -> bool:
    """Whether the run of this run.json left out copies of pictures kept out: earlier versions trained on them."""
    dataset = said.get("dataset")
    return isinstance(dataset, dict) and COPIES_KEY in dataset


def _dataset(run: RunFolder, checkpoint: Path | None) -> dict[str, Any]:
    """What run.json says of the data of a run that goes on; nothing for one that starts."""
    if checkpoint is None or not run.owns(checkpoint):
        return {}
    found = read_object(run.path / RUN_FILE, lambda _: None).get("dataset")
    return found if isinstance(found, dict) else {}


def _changed(run: RunFolder, what: str) -> str:
    return f"{run.path} can't go on: {what}. Put it back, or start another run in another --output_dir."


def as_it_began(run: RunFolder, checkpoint: Path | None, settings: UnetSettings) -> UnetSettings:
    """The settings of a run that goes on: one that an earlier version began knows no buckets, and never gets any.

    Raises:
        ValueError: `--buckets` is given for one.
    """
    if checkpoint is None or not run.owns(checkpoint):
        return settings
    before = read_object(run.path / RUN_FILE, lambda _: None).get("arguments")
    if not isinstance(before, dict) or before.get("buckets", False) is not False:
        return settings
    if settings.data.buckets:
        raise ValueError(f"{run.path} began with square pictures. Leave out --buckets to go on with it.")
    return replace(settings, data=replace(settings.data, buckets=False))


def breaks(name: str, before: Any, now: Any) -> bool:
    """Whether a run can't go on with the value `now` of a flag."""
    if name == "mixed_precision":  # fp16 goes on with the scale of its loss, which only its checkpoints hold
        return bool(now == "fp16") and bool(before != "fp16")
    if name == "buckets" and before is False and now is None:  # `as_it_began` leaves it so
        return False
    if name in _PATHS:
        return not (is_same_place(before, now) or (_is_embedded(before) and _is_embedded(now)))
    return name in FIXED and bool(before != now)


def _is_embedded(path: Any) -> bool:
    """Whether it is this package's model, wherever the package was or is installed."""
    return isinstance(path, str) and Path(path).parts[-3:] == DEFAULT_MODEL.parts[-3:]
