"""The settings of train_text_to_image_reslora.py: diffusers' flags with their names and meaning, and ours. No torch.

Source of the shared flags: huggingface/diffusers, examples/text_to_image/train_text_to_image_lora.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from ..training.options import check_above_zero, check_at_least, check_choices, check_finite, option
from .data_settings import DataSettings as DataSettings
from .method_settings import UnetMethod as UnetMethod
from .model_settings import ModelSettings as ModelSettings
from .optimizer_settings import OptimizerSettings as OptimizerSettings
from .output_settings import OutputSettings as OutputSettings


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how training goes."""

    _argument_group_name: ClassVar[str] = "training"

    seed: int = option(42, "Seed of everything that is drawn.")
    train_batch_size: int = option(16, "Pictures of one process and step (embedded model: 4).")
    num_train_epochs: int | None = option(None, "Used where max_train_steps is left out (left out too: 100 epochs).")
    max_train_steps: int | None = option(
        None, "Optimizer steps (left out: by epochs; embedded model: 200, own pictures: 240)."
    )
    gradient_accumulation_steps: int = option(1, "Batches that one optimizer step adds up.")
    gradient_checkpointing: bool = option(False, "Less memory for a slower backward pass.")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None, "Frozen weights and products in half precision."
    )
    allow_tf32: bool = option(False, "TF32 products on Ampere and newer.")
    snr_gamma: float | None = option(None, "Min-SNR weights; 5.0 is usual.")
    noise_offset: float = option(0.0, "Scale of noise offset.")
    min_timestep: int = option(0, "Train from this timestep on (kohya's name).")
    max_timestep: int | None = option(
        None,
        "Train below this timestep (kohya's name): the highest decide what is where, lower ones how it is drawn. "
        "Left out: all of the schedule; embedded model on OpenMoji: 600.",
    )
    dataloader_num_workers: int = option(0, "Processes that read and decode pictures ahead of the training.")
    enable_xformers_memory_efficient_attention: bool = option(
        False, "Accepted for old commands: PyTorch's own memory-efficient attention is always used."
    )
    local_rank: int = option(-1, "Set by old launchers; accelerate reads the environment.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(
            self, 1, ["train_batch_size", "num_train_epochs", "max_train_steps", "gradient_accumulation_steps"]
        )
        check_above_zero(self, ["snr_gamma"])
        check_at_least(self, 0, ["dataloader_num_workers", "noise_offset"])
        check_finite(self)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed is {self.seed}. It must be from 0 to {2**32 - 1}.")

    def timesteps(self, schedule: int) -> range:
        """Those that are trained of a schedule of so many.

        Raises:
            ValueError: nothing is left, or the schedule is shorter.
        """
        stop = schedule if self.max_timestep is None else self.max_timestep
        if not 0 <= self.min_timestep < stop <= schedule:
            raise ValueError(
                f"--min_timestep is {self.min_timestep} and --max_timestep {stop}. The model's schedule has {schedule} "
                f"timesteps: 0 <= min_timestep < max_timestep <= {schedule}."
            )
        return range(self.min_timestep, stop)


@dataclass(frozen=True)
class ValidationSettings:
    """What is drawn and measured on the way."""

    _argument_group_name: ClassVar[str] = "validation"

    validation_prompts: list[str] | None = option(
        None, "Prompts, or one .txt file with a prompt a line.", metavar="PROMPT"
    )
    validation_captions: int = option(
        0, "Draw so many captions of the data too, from all over it (embedded model, own pictures, no prompts: 4)."
    )
    validation_samples: int = option(
        0, "Keep so many pictures out of training, and log their loss (without data of your own: 64; a style: 60)."
    )
    test_samples: int = option(
        0, "Keep so many more pictures out, the same for every seed, and measure on them once, at the end."
    )
    validation_prompt: str | None = option(None, "One prompt (diffusers' name).")
    validation_steps: int | None = option(
        None, "Draw every so many steps, and at step 0 (embedded model: 20, own pictures: 40)."
    )
    validation_epochs: int | None = option(
        None, "Draw every so many epochs, where validation_steps is left out (left out too: every epoch)."
    )
    num_validation_images: int = option(1, "Pictures of each prompt, seeds seed, seed + 1, ...; 0 draws none.")
    validation_negative_prompt: str = option("", "What the pictures are guided away from.")
    validation_guidance_scale: float = option(
        7.5, "How strongly the prompt guides (embedded model: 4; a style: 2.5; own pictures: 1.25)."
    )
    validation_inference_steps: int = option(25, "Steps of the sampler (embedded model: 20; a style: 10).")

    def __post_init__(self) -> None:
        check_at_least(self, 1, ["validation_steps", "validation_epochs", "validation_inference_steps"])
        counts = ["validation_captions", "validation_samples", "test_samples", "num_validation_images"]
        check_at_least(self, 0, counts)
        check_finite(self)


@dataclass(frozen=True)
class UnetSettings:
    """All settings of a run, complete and checked against each other.

    Raises:
        ValueError: two settings contradict each other.
    """

    method: UnetMethod
    model: ModelSettings
    data: DataSettings
    training: TrainingSettings
    optimizer: OptimizerSettings
    validation: ValidationSettings
    output: OutputSettings

    def __post_init__(self) -> None:
        if not self.output.output_dir:
            object.__setattr__(self, "output", replace(self.output, output_dir=f"runs/{self.method.method}"))
        asked, one = self.validation.validation_prompts or [], self.validation.validation_prompt
        prompts = [*asked, one] if one is not None else list(asked)
        epochs, steps = self.validation.validation_epochs, self.validation.validation_steps
        drawn = prompts or self.validation.validation_captions
        if (steps or epochs) and not drawn:
            name = "validation_steps" if steps else "validation_epochs"
            raise ValueError(f"--{name} is given without prompts. Add --validation_prompts 'a prompt'.")
        if drawn and not steps and not epochs:
            epochs = 1
        method = self.method
        if self.optimizer.text_encoder_lr is not None and not method.train_text_encoder:
            raise ValueError("--text_encoder_lr is given, but no text encoder is trained. Add --train_text_encoder.")
        if method.alpha_from == "inputs" and method.approach != "weights" and self.output.report is False:
            raise ValueError(
                "--alpha_from inputs changes the merge `weights` alone, and with --no_report nothing but "
                f"{method.approach} is made. Add --merge_approach weights, or leave one of the two out."
            )
        complete = replace(
            self.validation, validation_prompts=prompts, validation_prompt=None, validation_epochs=epochs
        )
        object.__setattr__(self, "validation", complete)

    @property
    def groups(self) -> tuple[Any, ...]:
        """The settings by concern, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))


GROUPS = (
    UnetMethod,
    ModelSettings,
    DataSettings,
    TrainingSettings,
    OptimizerSettings,
    ValidationSettings,
    OutputSettings,
)
"""Classes of the fields of `UnetSettings`, in their order."""
