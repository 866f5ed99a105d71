"""What a run says of itself, and the checks that stop it."""

from __future__ import annotations

import math
import shlex

import torch

from ..adapter.adapter import ResLoRAAdapter
from ..runs.folder import RunFolder
from ..runs.names import DIFFUSERS_FILE, KOHYA_FILE
from .arguments import to_arguments
from .data import CaptionedImages
from .finish import Finished
from .models import Parts
from .settings import OutputSettings, UnetSettings


def push_to_hub(output: OutputSettings, run: RunFolder) -> None:
    """Uploads the run folder without its checkpoints."""
    from huggingface_hub import create_repo, upload_folder

    repository = create_repo(output.hub_model_id or run.path.name, exist_ok=True, token=output.hub_token).repo_id
    upload_folder(
        repo_id=repository, folder_path=run.path, ignore_patterns=["checkpoint-*/*", ".*"], token=output.hub_token
    )


def describe(
    settings: UnetSettings, parts: Parts, adapter: ResLoRAAdapter, images: CaptionedImages, steps: int
) -> dict[str, object]:
    """What run.json says."""
    return {
        "method": settings.method.method,
        "arguments": to_arguments(settings),
        "base_model": parts.name,
        "dataset": {"name": images.name, "pictures": len(images)},
        "seed": settings.training.seed,
        "steps": steps,
        "lora_config": adapter.config.to_dict(),
        "trainable_parameters": adapter.num_parameters(),
        "link_plan": adapter.link_plan().to_list(),
    }


def finite(norm: torch.Tensor | float | None) -> float | None:
    """The norm for the log; `None` where fp16's loss scaling made it infinite and the step was skipped."""
    return float(norm) if norm is not None and math.isfinite(norm) else None


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
    if parts.relabelled:
        kind = parts.scheduler.config.prediction_type
        print(
            f"Trained with --prediction_type {kind}, which the model's own scheduler doesn't say. Before drawing, run:"
        )
        print("  config = pipeline.scheduler.config")
        print(f"  pipeline.scheduler = pipeline.scheduler.from_config(config, prediction_type={kind!r})")
        print("In ComfyUI, the node ModelSamplingDiscrete sets it.")
    page = shlex.join(["python", "-m", "app", str(run.path)])
    print(f"The LoRA is {run.path / DIFFUSERS_FILE}, for the base model {parts.name}.")
    print(f"  diffusers:           pipeline.load_lora_weights({str(run.path)!r})")
    print(f"  ComfyUI and A1111:   {run.path / KOHYA_FILE}")
    print(f"  look at the run:     {page}")
