"""The words that scripts and page share: methods, merge approaches, files of a run, default prompts."""

from __future__ import annotations

import os
import re
from pathlib import Path

METHODS = {
    "lora": "none",
    "reslora_is": "input",
    "reslora_bs": "block",
    "reslora_ms": "middle",
    "reslora_frozen": "frozen",
}
"""Our methods, as on the command line, and the residual that each one trains with."""

BASELINES = ("adalora", "loha", "lokr", "full")
"""Methods of the text scripts that PEFT or plain training brings."""

APPROACHES = {
    "none": ("none", "exact"),
    "input": ("none", "input", "weights", "least_squares"),
    "block": ("none", "exact"),
    "middle": ("none", "input", "weights", "least_squares"),
    "frozen": ("exact",),
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
KOHYA_KEY = "kohya_file"
"""The entry of run.json that names the LoRA for ComfyUI and A1111."""
FROZEN_PATHS_KEY = "frozen_paths"
"""The entry of run.json that says what the paths of `reslora_frozen` were measured on."""
REPORT_FILE = "merge_report.json"
RESULTS_FILE = "results.json"
ANSWERS_FILE = "answers.jsonl"
ADAPTER_FILE = "reslora_adapter.safetensors"
TEXT_ADAPTERS = {
    "text_encoder": "reslora_adapter.text_encoder.safetensors",
    "text_encoder_2": "reslora_adapter.text_encoder_2.safetensors",
}
"""The same of text encoders that were trained, by their names in a pipeline."""
HEAD_FILE = "trained_modules.safetensors"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
OLD_KOHYA_FILE = "pytorch_lora_weights_kohya.safetensors"
"""What older versions called the file that is now named after its run: see `kohya_name`."""
PEFT_FOLDER, FUSED_FOLDER = "peft", "fused"
LORAS_FOLDER = "loras"
"""LoRAs that were merged on the way: a folder for each step."""
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


def alpha_from_of(approach: str, asked: object) -> str:
    """What `merge` takes as `alpha_from` for an approach: `asked` of a run counts for `weights` alone."""
    return "inputs" if approach == "weights" and asked == "inputs" else "weights"


def looks_at_data(approach: str, asked: object = "weights") -> bool:
    """Whether a merge needs statistics, in a run whose `--alpha_from` is `asked`."""
    return approach in FROM_STATISTICS or alpha_from_of(approach, asked) == "inputs"


_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')  # in names of files, or in A1111's <lora:name:1>
_LONGEST_NAME = 200  # bytes; file systems take 255, and a file has a longer name while it is written


def kohya_name(folder: Path) -> str:
    """The name of a run's LoRA for ComfyUI and A1111, which list files by it: that of the run folder.

    A folder that is called as a method, such as the page's `rex/lora`, gets the name of the folder above it in front.
    """
    path = Path(os.path.abspath(folder))
    name = path.name
    if name in METHODS and path.parent.name not in ("", "runs"):
        name = f"{path.parent.name}-{name}"
    name = _UNFIT.sub("_", name).strip(". ").encode()[:_LONGEST_NAME].decode(errors="ignore") or "lora"
    file = f"{name}.safetensors"
    # diffusers takes any file with the end of its own name for its own
    taken = file.lower().endswith(DIFFUSERS_FILE) or file.lower() in (
        ADAPTER_FILE,
        HEAD_FILE,
        *TEXT_ADAPTERS.values(),
    )
    return f"{name}_kohya.safetensors" if taken else file


_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")


def checkpoint_step(name: str) -> int | None:
    """The step in the name of a checkpoint's folder; `None` for the name of anything else."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match.group(1)) if match else None


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after a step."""
    return f"checkpoint-{step}"
