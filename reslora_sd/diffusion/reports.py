"""What a run says of itself, and the checks that stop it."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from ..files.storage import reason
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import DIFFUSERS_FILE, KOHYA_KEY, REFERENCES_FILE, RUN_FILE, TRACKER, kohya_name
from ..runs.paths import public_name
from .adapters import Adapters
from .arguments import to_arguments
from .data import CaptionedImages
from .finish import Finished
from .framing import framing_of
from .models import Parts
from .preparing import describe_pictures
from .settings import OutputSettings, UnetSettings
from .sources import sources_of

logger = logging.getLogger("reslora_sd")


def check_services(output: OutputSettings) -> None:
    """Whether trackers are installed and the Hub takes uploads: after the training it would be too late to find out.

    Raises:
        ValueError: one is missing, or can't be reached.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()]
    if output.report_to not in ("none", "all", *installed):
        known = output.report_to in LOGGER_TYPE_TO_CLASS
        what = f"isn't installed. Run: pip install {output.report_to}" if known else "is no tracker"
        raise ValueError(f"--report_to {output.report_to} {what}, or choose one of: none, {', '.join(installed)}.")
    if output.push_to_hub:
        from huggingface_hub import constants, whoami
        from huggingface_hub.utils import validate_repo_id

        try:
            if constants.HF_HUB_OFFLINE:
                raise ConnectionError("HF_HUB_OFFLINE is set")
            validate_repo_id(output.hub_model_id or Path(output.output_dir).name)
            whoami(token=output.hub_token)
        except Exception as error:  # no network, no token, a wrong one: each of another library
            raise ValueError(
                f"--push_to_hub: nothing can be uploaded ({reason(error)}). Log in with hf auth login, give "
                "--hub_token, or leave out --push_to_hub."
            ) from error


def push_to_hub(output: OutputSettings, run: RunFolder) -> None:
    """Uploads the run folder without its checkpoints; without what is private, unless `--hub_private_files` asks."""
    from huggingface_hub import create_repo, upload_file, upload_folder

    repository = create_repo(output.hub_model_id or run.path.name, exist_ok=True, token=output.hub_token).repo_id
    given: dict[str, Any] = {"repo_id": repository, "token": output.hub_token}
    ignored = ["checkpoint-*/*", ".*"]
    if not output.hub_private_files:
        ignored += [
            RUN_FILE,
            REFERENCES_FILE,
            "validation/real/*",
            (Path(output.logging_dir) / TRACKER / "*").as_posix(),
        ]
        settings = without_local_paths(read_object(run.path / RUN_FILE, logger.warning))
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        upload_file(path_or_fileobj=f"{text}\n".encode(), path_in_repo=RUN_FILE, **given)
    upload_folder(folder_path=run.path, ignore_patterns=ignored, **given)


def without_local_paths(value: Any) -> Any:
    """The same with the last part alone of each path that is absolute, or there on this machine."""
    if isinstance(value, dict):
        return {key: without_local_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_local_paths(one) for one in value]
    return public_name(value) if isinstance(value, str) else value


def describe(
    settings: UnetSettings, parts: Parts, adapters: Adapters, images: CaptionedImages, steps: int
) -> dict[str, object]:
    """What run.json says."""
    framing = framing_of(settings.data, settings.data.resolution or parts.resolution, images, parts)
    dataset = describe_pictures(images, framing)
    if settings.data.dataset_config:
        dataset["folders"] = [dataclasses.asdict(source) for source in sources_of(settings.data)]
    text = {
        component: {"lora_config": one.config.to_dict(), "link_plan": one.link_plan().to_list()}
        for component, one in adapters.text.items()
    }
    return {
        "method": settings.method.method,
        "arguments": to_arguments(settings),
        "base_model": parts.name,
        "dataset": dataset,
        "seed": settings.training.seed,
        "steps": steps,
        "lora_config": adapters.unet.config.to_dict(),
        KOHYA_KEY: kohya_name(Path(settings.output.output_dir)),
        "trainable_parameters": adapters.num_parameters(),
        "link_plan": adapters.unet.link_plan().to_list(),
        **({"text_encoders": text} if text else {}),
    }


def finite(norm: torch.Tensor | float | None) -> float | None:
    """The norm for the log; `None` where fp16's loss scaling made it infinite and the step was skipped."""
    return float(norm) if norm is not None and math.isfinite(norm) else None


def _page_program() -> str:
    """How the page is started from here: by its name, or where the environment isn't activated, by its place."""
    name = "reslora-page"
    return name if shutil.which(name) else str(Path(sys.executable).with_name(name))


def print_result(run: RunFolder, result: Finished, parts: Parts) -> None:
    """What the user reads at the end: how good the merge is, where the files are, and how to use them."""
    if result.approach != "exact":
        print("\nDrift of the merged from the unmerged model, as a share of what the adaptation changes:")
        for name, value in sorted(result.drift.items(), key=lambda item: -item[1]):
            print(f"  {name:14} {100 * value:7.3f} %{'   <- exported' if name == result.approach else ''}")
    print(
        f"\nIn a fresh pipeline {result.active_linears} linears carry the LoRA; its predictions differ from the "
        f"unmerged model's by {result.largest_difference:.2g} at most."
    )
    saved = result.exported.diffusers
    if saved.error:
        print(f"Saved in {saved.precision}: rounding changes the LoRA by {100 * saved.error:.2g} % of its norm.")
    if parts.relabelled:
        kind = parts.scheduler.config.prediction_type
        print(
            f"Trained with --prediction_type {kind}, which the model's own scheduler doesn't say. Before drawing, run:"
        )
        print("  config = pipeline.scheduler.config")
        print(f"  pipeline.scheduler = pipeline.scheduler.from_config(config, prediction_type={kind!r})")
        print("In ComfyUI, the node ModelSamplingDiscrete sets it.")
    page = shlex.join([_page_program(), str(run.path)])
    print(f"The LoRA is {run.path / DIFFUSERS_FILE}, for the base model {parts.name}.")
    print(f"  diffusers:           pipeline.load_lora_weights({str(run.path)!r})")
    print(f"  ComfyUI and A1111:   {result.exported.kohya.path}")
    print(f"  look at the run:     {page}")
