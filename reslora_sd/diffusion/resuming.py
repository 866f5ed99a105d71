"""Whether a run may go on from a checkpoint, and with which changes of its settings. No torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..assets import DEFAULT_MODEL
from ..runs.checkpoints import find_checkpoint, list_checkpoints
from ..runs.contents import holds_run
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import RUN_FILE
from .arguments import to_arguments
from .settings import UnetSettings

logger = logging.getLogger("reslora_sd")

FIXED = frozenset(
    """
    method rank lora_alpha lora_dropout pre_num first_block link across_attention target_modules
    pretrained_model_name_or_path revision variant prediction_type
    dataset_name dataset_config_name train_data_dir image_column caption_column max_train_samples validation_samples
    resolution center_crop random_flip image_interpolation_mode
    seed train_batch_size gradient_accumulation_steps snr_gamma noise_offset min_timestep max_timestep
    lr_scheduler lr_warmup_steps lr_num_cycles lr_power use_8bit_adam
    """.split()
)
"""Flags that stay what they were: what is trained, on which pictures in which order, for which loss."""
CHANGEABLE = frozenset(
    """
    merge_approach merge_rank calibration_samples cache_dir cache_latents
    num_train_epochs max_train_steps gradient_checkpointing mixed_precision allow_tf32 dataloader_num_workers
    enable_xformers_memory_efficient_attention local_rank
    learning_rate scale_lr adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm
    validation_prompts validation_prompt validation_steps validation_epochs num_validation_images
    validation_negative_prompt validation_guidance_scale validation_inference_steps
    output_dir overwrite_output_dir checkpointing_steps checkpoints_total_limit resume_from_checkpoint report_to
    logging_dir push_to_hub hub_model_id hub_token
    """.split()
)
"""Flags whose new value counts from the checkpoint on."""
_PATHS = ("pretrained_model_name_or_path", "train_data_dir")


def find_resumed(run: RunFolder, settings: UnetSettings) -> Path | None:
    """The checkpoint that the run goes on from; `None` where it starts. Nothing is written.

    Without a run in the folder, `latest` starts one, as in diffusers' scripts: the same command starts and continues.

    Raises:
        ValueError: the folder holds another run, a part of the checkpoint is missing or damaged, or a flag has another
            value than in the run, and is one of `FIXED`.
        FileNotFoundError: there is no such checkpoint.
    """
    output, checkpoint = settings.output, None
    asked, overwrite = output.resume_from_checkpoint, output.overwrite_output_dir
    if asked == "latest" and not list_checkpoints(run.path) and (overwrite or not holds_run(run.path)):
        logger.warning("%s has no checkpoint to resume from: the training starts at its first step.", run.path)
    elif asked:
        checkpoint = find_checkpoint(run.path, asked)
    run.check(resume=run.owns(checkpoint), overwrite=overwrite)
    if checkpoint is not None and run.owns(checkpoint):
        notes: list[str] = []
        arguments = read_object(run.path / RUN_FILE, notes.append).get("arguments")
        if isinstance(arguments, dict):
            check_unchanged(checkpoint, arguments, settings)
        else:
            why = " ".join(notes) or f"{RUN_FILE} has no arguments."
            logger.warning("%s: %s Give the flags that the run was started with: they can't be checked.", run.path, why)
    return checkpoint


def check_unchanged(checkpoint: Path, arguments: Mapping[str, Any], settings: UnetSettings) -> None:
    """Whether the settings are those of the checkpoint's run, but for what may change.

    Args:
        arguments: of that run, from its run.json. A flag that isn't there, since it came later, is not compared.

    Raises:
        ValueError: it names each flag that differs, and both values.
    """
    now = json.loads(json.dumps(to_arguments(settings)))
    changed = [
        f"--{name} was {_said(arguments[name])} and is {_said(now[name])}"
        for name in now
        if name in arguments and _breaks(name, arguments[name], now[name])
    ]
    if changed:
        raise ValueError(
            f"{checkpoint} is of a run with other settings: {'; '.join(changed)}. Resume with the same, or start "
            "another run in another --output_dir."
        )


def _breaks(name: str, before: Any, now: Any) -> bool:
    """Whether a run can't go on with the value `now` of a flag."""
    if name == "mixed_precision":  # fp16 goes on with the scale of its loss, which only its checkpoints hold
        return now == "fp16" and before != "fp16"
    if name in _PATHS and isinstance(before, str) and isinstance(now, str):
        return not _is_same_place(Path(before), Path(now))
    return name in FIXED and bool(before != now)


def _is_same_place(before: Path, now: Path) -> bool:
    embedded = DEFAULT_MODEL.parts[-3:]  # the package may have moved
    return before.resolve() == now.resolve() or before.parts[-3:] == now.parts[-3:] == embedded


def _said(value: Any) -> str:
    return "left out" if value is None else json.dumps(value, ensure_ascii=False)
