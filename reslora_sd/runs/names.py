"""The words that scripts and page share: methods, merge approaches, files of a run, default prompts."""

from __future__ import annotations

import re

METHODS = {"lora": "none", "reslora_is": "input", "reslora_bs": "block", "reslora_ms": "middle"}
"""Our methods, as on the command line, and the residual that each one trains with."""

BASELINES = ("adalora", "loha", "lokr", "full")
"""Methods of the text scripts that PEFT or plain training brings."""

APPROACHES = {
    "none": ("none", "exact"),
    "input": ("none", "input", "weights", "least_squares"),
    "block": ("none", "exact"),
    "middle": ("none", "input", "weights", "least_squares"),
}
"""Merge approaches by residual."""
FROM_STATISTICS = ("input", "least_squares")
"""Approaches that look at data."""

UNMERGED, BASE = "unmerged", "base"
"""What an index of pictures calls those of the model with its paths, and those of the base model."""

RUN_FILE = "run.json"
LOG_FILE = "log.jsonl"
INDEX_FILE = "validation/index.jsonl"
REFERENCES_FILE = "validation/real.jsonl"
SHEET_FILES = ("validation/steps.png", "validation/merged.png")
REPORT_FILE = "merge_report.json"
RESULTS_FILE = "results.json"
ANSWERS_FILE = "answers.jsonl"
ADAPTER_FILE = "reslora_adapter.safetensors"
HEAD_FILE = "trained_modules.safetensors"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "pytorch_lora_weights_kohya.safetensors"
PEFT_FOLDER, FUSED_FOLDER = "peft", "fused"
MANIFEST_FILE = "checkpoint.json"
SCHEDULE_FILE = "schedule.json"
LOCK_FILE, WRITER_FILE = ".lock", ".writer.json"
TRACKER = "text2image-reslora"
"""What trackers such as TensorBoard call the U-Net's trainings: a folder in `--logging_dir`."""

OPENMOJI = "openmoji"
"""What `--dataset_name` calls the drawings that another model than the embedded one gets where no data is given."""

STYLES = ("gold", "sunset")
"""What `--dataset_name` calls the embedded styles. The embedded model gets the first where no data is given."""

BUNDLED = (OPENMOJI, *STYLES)
"""Values of `--dataset_name` that are nobody's own pictures."""

DEFAULT_PROMPTS = ("cat face", "penguin", "birthday cake", "red apple")
"""Validation prompts of the embedded model."""


def default_approach(residual: str) -> str:
    """The best approach of a residual: `exact` where there is one, else `least_squares`."""
    return "exact" if "exact" in APPROACHES[residual] else "least_squares"


_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")


def checkpoint_step(name: str) -> int | None:
    """The step in the name of a checkpoint's folder; `None` for the name of anything else."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match.group(1)) if match else None


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after a step."""
    return f"checkpoint-{step}"
