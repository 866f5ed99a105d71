"""What a run says of itself, and the checks that stop it."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

from ..adapter.adapter import ResLoRAAdapter
from ..runs.folder import RunFolder
from .finish import Finished
from .models import Parts


def push_to_hub(args: argparse.Namespace, run: RunFolder) -> None:
    """Uploads the run folder without its checkpoints."""
    from huggingface_hub import create_repo, upload_folder

    repository = create_repo(args.hub_model_id or run.path.name, exist_ok=True, token=args.hub_token).repo_id
    upload_folder(
        repo_id=repository, folder_path=run.path, ignore_patterns=["checkpoint-*/*", ".*"], token=args.hub_token
    )


def public(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments without secrets, for files and trackers."""
    return {key: value for key, value in sorted(vars(args).items()) if key != "hub_token"}


def describe(
    args: argparse.Namespace, parts: Parts, adapter: ResLoRAAdapter, pictures: int, name: str, steps: int
) -> dict[str, object]:
    """What run.json says."""
    return {
        "method": args.method,
        "arguments": public(args),
        "base_model": parts.name,
        "dataset": {"name": name, "pictures": pictures},
        "seed": args.seed,
        "steps": steps,
        "lora_config": adapter.config.to_dict(),
        "trainable_parameters": adapter.num_parameters(),
        "link_plan": adapter.link_plan().to_list(),
    }


def finite(norm: torch.Tensor | float | None) -> float | None:
    """The norm for the log; `None` where fp16's loss scaling made it infinite and the step was skipped."""
    return float(norm) if norm is not None and math.isfinite(norm) else None


def print_result(run: RunFolder, result: Finished) -> None:
    """What the user reads at the end."""
    print("\nDrift of the merged from the unmerged model, as a share of what the adaptation changes:")
    for name, value in sorted(result.drift.items(), key=lambda item: -item[1]):
        print(f"  {name:14} {100 * value:7.3f} %{'   <- exported' if name == result.approach else ''}")
    print(
        f"In a fresh pipeline {result.active_linears} linears carry the LoRA; its predictions differ from the unmerged "
        f"model's by {result.largest_difference:.2g} at most."
    )
    print(f"Everything is in {run.path}. Use it with: pipeline.load_lora_weights({str(run.path)!r})")
