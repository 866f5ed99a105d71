"""The settings of what a run of train_text_to_image_reslora.py writes, and where. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..config import Precision
from ..training.options import check_at_least, check_choices, option, switch


@dataclass(frozen=True)
class OutputSettings:
    """Where everything goes."""

    _argument_group_name: ClassVar[str] = "output, checkpoints and trackers"

    output_dir: str = option("", "Run folder (left out: runs/METHOD).")
    overwrite_output_dir: bool = option(False, "Replace a run that is there.")
    checkpointing_steps: int = option(500, "Checkpoint every so many optimizer steps.")
    checkpoints_total_limit: int | None = option(None, "Keep at most so many checkpoints.")
    resume_from_checkpoint: str | None = option(None, "'latest', checkpoint-STEP, or a path.", metavar="NAME")
    save_lora_steps: int | None = option(None, "Save a merged LoRA every so many optimizer steps.")
    save_lora_epochs: int | None = option(None, "Save one every so many epochs, where save_lora_steps is left out.")
    save_precision: Precision = option("fp16", "Of the exported LoRA's numbers.")
    report_to: str = option("none", "tensorboard, wandb, comet_ml or all; log.jsonl is always written.")
    logging_dir: str = option("logs", "Trackers' folder inside output_dir.")
    report: bool | None = switch("Measure and draw every merge at length. --no_report: only merge, export and load.")
    push_to_hub: bool = option(False, "Upload the exported LoRA when training ends.")
    hub_model_id: str | None = option(None, "Repository on the Hub (left out: name of output_dir).")
    hub_token: str | None = option(None, "Token for the Hub.")
    hub_private_files: bool = option(False, "Upload your pictures, local paths and trackers' logs, too.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(
            self, 1, ["checkpointing_steps", "checkpoints_total_limit", "save_lora_steps", "save_lora_epochs"]
        )
        if self.report_to == "no":
            object.__setattr__(self, "report_to", "none")
