"""An ordinary LoRA without paths: what a merge gives, and what other tools load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.block import LoRABlock
from ..blocks.plain import PlainBlock
from ..config import ResLoRAConfig
from ..files import writing
from ..files.lora_file import UNET, Blocks, Origin
from ..files.reading import read_lora
from ..plan.text import check_own_weights


@dataclass(frozen=True)
class BlockReport:
    """How one block was merged."""

    alpha: float | None
    """The factor of Eqs. 7 to 12, or `None` where the approach has none."""
    alphas: tuple[float, ...]
    """The factors of Eq. 13, nearest predecessor first; empty elsewhere."""
    r: int
    """Rank after the merge."""
    error: float | None
    """sqrt(E||merged - unmerged||^2 / E||unmerged||^2) of the branch's output; `None` without statistics."""
    input_norm: float | None = None
    """||x_n||_F, the mean over the statistics' last forward passes (f_n of Eq. 8); `None` without statistics."""


@dataclass(frozen=True)
class PlainLoRA:
    """A LoRA by the path of its linears. The adapter that it was merged from is not touched.

    `save_diffusers` is the main form: `StableDiffusionPipeline.load_lora_weights` takes it. ComfyUI and A1111 take
    what `save_kohya` writes, PEFT what `save_peft` writes.
    """

    blocks: Mapping[str, PlainBlock]
    config: ResLoRAConfig | None = None
    """Settings of the adapter that it comes from, or `None`."""
    approach: str = "none"
    """How it was merged."""
    reports: Mapping[str, BlockReport] = field(default_factory=dict)
    text_encoders: Mapping[str, Blocks] = field(default_factory=dict)
    """What a file of others holds for `text_encoder` and `text_encoder_2`."""

    def save_diffusers(self, path: str | os.PathLike[str], **details: str) -> str:
        """Writes `pytorch_lora_weights.safetensors` in a folder, or the named .safetensors file; gives its path.

        Args:
            details: strings for the file's metadata, for example `ss_base_model_version="sd_v1"`.
        """
        return writing.save_diffusers(path, self.blocks, self._origin(), details)

    def save_kohya(self, path: str | os.PathLike[str], **details: str) -> str:
        """Writes one .safetensors file in kohya's naming, for ComfyUI and A1111; gives its path."""
        return writing.save_kohya(path, self.blocks, self._origin(), details)

    def save_peft(
        self,
        folder: str | os.PathLike[str],
        base_model: str = "",
        task_type: str | None = None,
        trained_modules: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Writes an adapter folder for `PeftModel.from_pretrained`; gives its path.

        Args:
            base_model: name or path that PEFT loads the base model from, where it is asked to.
            task_type: PEFT's, for example `CAUSAL_LM` or `SEQ_CLS`; needed by `AutoPeftModelFor...`.
            trained_modules: parameters that were trained whole, by their path in the model, such as a new classifier's.
        """
        return writing.save_peft(folder, self.blocks, self._origin(), base_model, task_type, trained_modules or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlainLoRA:
        """Reads a LoRA of a U-Net from any of the three forms (a file, or the folder that was written).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds other keys too, or is no LoRA.
        """
        file = read_lora(path)
        text_encoders = {name: blocks for name, blocks in file.components.items() if name != UNET}
        return cls(file.blocks(UNET), file.origin.config, file.origin.approach, text_encoders=text_encoders)

    def _origin(self) -> Origin:
        return Origin(self.config, self.approach)

    def fuse_into(self, model: nn.Module) -> float:
        """Adds the LoRA to the model's own weights, for good: sums in float32 and rounds once.

        Returns:
            The largest rounding error of a weight; 0 for a float32 model.

        Raises:
            ValueError: the model lacks one of the linears, has another size, still has its ResLoRA adapter, or uses the
                weight of one of the linears elsewhere, too (a tied `lm_head`); nothing is changed then.
        """
        if any(isinstance(module, LoRABlock) for module in model.modules()):
            raise ValueError(
                "The model still has its ResLoRA adapter, which would act twice. Call adapter.remove() first."
            )
        linears = self.linears_of(model)
        check_own_weights(model, linears)
        largest = 0.0
        with torch.no_grad():
            for name, block in self.blocks.items():
                weight = linears[name].weight
                exact = weight.float() + block.delta_weight().to(weight.device)
                weight.copy_(exact)
                largest = max(largest, float((weight.float() - exact).abs().max()))
        return largest

    def linears_of(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The model's linears that this LoRA belongs to, by name.

        Raises:
            ValueError: the model lacks one of them, or has another size.
        """
        return {name: _linear(model, name, block) for name, block in self.blocks.items()}

    def summary(self) -> dict[str, Any]:
        """Approach, ranks, errors and ||delta W||_F as plain values, for JSON."""
        return {
            "approach": self.approach,
            "blocks": {
                name: {
                    "alpha": report.alpha,
                    "alphas": list(report.alphas),
                    "r": report.r,
                    "error": report.error,
                    "norm": self.blocks[name].norm(),
                    "input_norm": report.input_norm,
                }
                for name, report in self.reports.items()
            },
        }


def _linear(model: nn.Module, name: str, block: PlainBlock) -> nn.Linear:
    try:
        linear = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"The model has no {name}. This LoRA belongs to another model.") from None
    shape = (block.lora_B.shape[0], block.lora_A.shape[1])
    if not isinstance(linear, nn.Linear) or tuple(linear.weight.shape) != shape:
        raise ValueError(
            f"{name} is {linear} in the model, and {shape[0]}x{shape[1]} in this LoRA, which belongs to another model."
        )
    return linear
