"""The settings of train_scripts/pretrain_tiny_sd.py, by concern."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..training.options import check_above_zero, check_at_least, option
from ..training.parser import SettingsParser
from .denoiser import CaptionPlan
from .loop import StageSettings
from .samples import SHEET_PROMPTS

RARE_WORDS = "man woman person men women people boy girl couple family kiss o\u2019clock".split()
"""Of names in dozens of variants, of which a small model can't show the difference."""


@dataclass(frozen=True)
class DataSettings:
    """The drawings, and which of them are kept from training."""

    _argument_group_name: ClassVar[str] = "data"

    data_dir: str = option("", "Parquet files (`image`, `text`) or an imagefolder with metadata; must be given.")
    size: int = option(64, "Pixels of a side.")
    leave_out_sets: list[str] = option(["openmoji"], "Sets that no stage may see.", nargs="*")
    left_out_names: int = option(40, "Names that no stage may see, for the evaluation.")

    def __post_init__(self) -> None:
        if not self.data_dir:
            raise ValueError("--data_dir is missing. Name the folder of captioned drawings.")
        check_at_least(self, 1, ["size"])
        check_at_least(self, 0, ["left_out_names"])


@dataclass(frozen=True)
class CaptionSettings:
    """How often a name is shown, and with which of its drawings."""

    _argument_group_name: ClassVar[str] = "captions"

    set_order: list[str] | None = option(
        None, "Whose drawing of a name leads: best set first (left out: by alphabet).", nargs="*"
    )
    leading_share: float = option(0.85, "How often a name shows its leading drawing.")
    recolourings: int = option(16, "Drawings of each name in other colours, which the captions name; 0: none.")
    recoloured_share: float = option(0.3, "How often a name is shown in other colours.")
    rare_words: list[str] = option(RARE_WORDS, "Names with one of these are drawn a third as often.", nargs="*")
    frequent_names: list[str] = option(list(SHEET_PROMPTS), "Names that are drawn three times as often.", nargs="*")

    def __post_init__(self) -> None:
        check_at_least(self, 0, ["recolourings"])
        _check_share(self, "leading_share")
        _check_share(self, "recoloured_share")

    @property
    def plan(self) -> CaptionPlan:
        """The same for `CaptionedLatents`."""
        return CaptionPlan(
            leading_share=self.leading_share,
            recoloured_share=self.recoloured_share,
            rare_words=tuple(self.rare_words),
            frequent_names=tuple(self.frequent_names),
        )


@dataclass(frozen=True)
class ModelSettings:
    """Sizes of the models, or where they come from."""

    _argument_group_name: ClassVar[str] = "models"

    init_from: str | None = option(None, "A pipeline folder whose tokenizer, text encoder and U-Net to start from.")
    vae_from: str | None = option(None, "A pipeline folder whose autoencoder to keep: the first stage is left out.")
    vae_channels: list[int] = option([16, 48, 96], "Widths of the autoencoder; each after the first halves the side.")
    vae_layers: int = option(1, "Layers of an autoencoder's block.")
    latent_channels: int = option(4, "Channels of a latent.")
    unet_channels: list[int] = option([64, 128], "Widths of the U-Net.")
    unet_layers: int = option(2, "Layers of a U-Net's block.")
    text_width: int = option(128, "Width of the text encoder.")
    text_layers: int = option(3, "Layers of the text encoder.")
    tokens: int = option(24, "Tokens of a caption.")
    vocabulary: int = option(3223, "Entries of the tokenizer.")

    def __post_init__(self) -> None:
        check_at_least(self, 1, "vae_layers latent_channels unet_layers text_width text_layers tokens".split())


@dataclass(frozen=True)
class VaeSettings:
    """First stage: how long and how fast the autoencoder learns, and from what."""

    _argument_group_name: ClassVar[str] = "autoencoder's training"

    vae_minutes: float = option(30.0, "Minutes of work; pauses don't count.")
    vae_steps: int | None = option(None, "Instead of --vae_minutes.")
    vae_batch_size: int = option(16, "Drawings a step.")
    vae_learning_rate: float = option(3e-3, "Peak of the learning rate.")
    vae_ema: float = option(0.997, "Averaged weights keep this share of themselves a step.")
    kl_weight: float = option(2e-4, "Weight of the KL term in the loss.")
    synthetic_drawings: int = option(12000, "Drawings made in code, for the autoencoder only.")
    synthetic_share: float = option(0.35, "Share of them in a batch.")

    def __post_init__(self) -> None:
        check_above_zero(self, "vae_minutes vae_steps vae_batch_size vae_learning_rate".split())
        check_at_least(self, 0, ["kl_weight", "synthetic_drawings"])
        _check_share(self, "vae_ema", below_one=True)
        _check_share(self, "synthetic_share")

    def stage(self, loop: LoopSettings) -> StageSettings:
        """The same for `Stage`."""
        return loop.stage(
            "vae", self.vae_minutes, self.vae_steps, self.vae_batch_size, self.vae_learning_rate, self.vae_ema
        )


@dataclass(frozen=True)
class UnetSettings:
    """Second stage: how long and how fast text encoder and U-Net learn."""

    _argument_group_name: ClassVar[str] = "U-Net's training"

    unet_minutes: float = option(60.0, "Minutes of work; pauses don't count.")
    unet_steps: int | None = option(None, "Instead of --unet_minutes.")
    unet_batch_size: int = option(32, "Drawings a step.")
    unet_learning_rate: float = option(2e-3, "Peak of the learning rate.")
    unet_ema: float = option(0.998, "Averaged weights keep this share of themselves a step.")

    def __post_init__(self) -> None:
        check_above_zero(self, "unet_minutes unet_steps unet_batch_size unet_learning_rate".split())
        _check_share(self, "unet_ema", below_one=True)

    def stage(self, loop: LoopSettings) -> StageSettings:
        """The same for `Stage`."""
        return loop.stage(
            "unet", self.unet_minutes, self.unet_steps, self.unet_batch_size, self.unet_learning_rate, self.unet_ema
        )


@dataclass(frozen=True)
class LoopSettings:
    """What both stages share."""

    _argument_group_name: ClassVar[str] = "both stages"

    seed: int = option(0, "Seed of everything that is drawn.")
    resume: bool = option(False, "Go on from the checkpoints in OUTPUT_DIR.")
    device: str = option("auto", "Such as cpu or cuda; auto: the accelerator, where there is one.")
    workers: int | None = option(None, "Threads that share each batch (left out: the cores; 1 on an accelerator).")
    warmup_steps: int = option(100, "The learning rate rises over these.")
    save_every: int = option(250, "Steps between checkpoints.")
    log_every: int = option(50, "Steps between lines of progress.")
    no_bf16: bool = option(False, "Models in float32: far faster on a CPU without bfloat16 instructions.")

    def __post_init__(self) -> None:
        if self.device == "auto":
            found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            object.__setattr__(self, "device", found.type if found else "cpu")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"--device is {self.device}, which torch doesn't know. Set cpu, cuda or auto.") from error
        check_at_least(self, 0, ["seed", "warmup_steps"])
        check_at_least(self, 1, ["workers", "save_every", "log_every"])

    @property
    def threads(self) -> int:
        """How many threads share each batch."""
        return self.workers or ((os.cpu_count() or 1) if torch.device(self.device).type == "cpu" else 1)

    def stage(
        self, name: str, minutes: float, steps: int | None, batch_size: int, learning_rate: float, ema: float
    ) -> StageSettings:
        """What `Stage` takes; steps, where given, come before minutes.

        Raises:
            ValueError: the batch can't be shared evenly among the workers.
        """
        if batch_size % self.threads:
            raise ValueError(
                f"--{name}_batch_size is {batch_size}, which can't be shared among {self.threads} workers. "
                "Set it to a multiple of --workers."
            )
        return StageSettings(
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_steps=steps,
            budget_seconds=60 * minutes if steps is None else None,
            warmup_steps=self.warmup_steps,
            ema_decay=ema,
            save_every=self.save_every,
            log_every=self.log_every,
            workers=self.threads,
        )


@dataclass(frozen=True)
class OutputSettings:
    """Where everything goes, and the sheet of samples."""

    _argument_group_name: ClassVar[str] = "output and samples"

    output_dir: str = option("", "Checkpoints, samples and the pipeline folder go here; must be given.")
    pipeline_dir: str | None = option(None, "Write the pipeline folder here instead of OUTPUT_DIR/pipeline.")
    sample_prompts: list[str] | None = option(None, "Prompts of the sheet (left out: sixteen names).", nargs="*")
    sample_steps: int = option(25, "Steps of the sampler.")
    guidance: float = option(4.0, "How strongly the prompt guides.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("--output_dir is missing. Name the folder that this run may write to.")
        check_at_least(self, 1, ["sample_steps"])

    @property
    def pipeline_folder(self) -> Path:
        """Where the pipeline folder is written."""
        return Path(self.pipeline_dir or Path(self.output_dir, "pipeline"))

    @property
    def prompts(self) -> list[str]:
        """What the sheet shows."""
        return self.sample_prompts or list(SHEET_PROMPTS)


@dataclass(frozen=True)
class PretrainSettings:
    """All settings of a pretraining, checked against each other.

    Raises:
        ValueError: a batch can't be shared among the workers.
    """

    data: DataSettings
    captions: CaptionSettings
    model: ModelSettings
    vae: VaeSettings
    unet: UnetSettings
    loop: LoopSettings
    output: OutputSettings

    def __post_init__(self) -> None:
        self.vae.stage(self.loop)
        self.unet.stage(self.loop)


_GROUPS = (DataSettings, CaptionSettings, ModelSettings, VaeSettings, UnetSettings, LoopSettings, OutputSettings)


def parse_settings(argv: Sequence[str] | None = None) -> PretrainSettings:
    """The command line and its `--config`.

    Raises:
        ValueError: a value is invalid.
    """
    description = "Trains a tiny Stable Diffusion (64x64 drawings) from captioned pictures."
    return PretrainSettings(*SettingsParser(_GROUPS, description).parse(argv))


def _check_share(settings: Any, name: str, below_one: bool = False) -> None:
    value = getattr(settings, name)
    if not 0 <= value <= 1 or (below_one and value == 1):
        raise ValueError(f"--{name} is {value}. It must be at least 0 and {'below' if below_one else 'at most'} 1.")
