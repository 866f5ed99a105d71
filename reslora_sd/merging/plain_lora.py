"""An ordinary LoRA without paths: what a merge gives, and what other tools load."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.block import LoRABlock
from ..blocks.plain import PlainBlock
from ..config import Precision, ResLoRAConfig
from ..files import writing
from ..files.lora_file import MODEL, TRANSFORMER, UNET, Blocks, Origin
from ..files.lora_metadata import PREDICTION_TYPE, describe, family_of
from ..files.reading import read_lora
from ..files.unet_names import guess_topology, topology_of
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
    explained: float | None = None
    """1 - E||x_{n-1} - M x_n||^2 / E||x_{n-1}||^2 for the best M: what x_n says of the nearest predecessor's input.
    `None` where a chain starts, for residuals that read no earlier input, and without statistics."""


@dataclass(frozen=True)
class PlainLoRA:
    """A LoRA by the path of its linears and convolutions. The adapter that it was merged from is not touched.

    `save_diffusers` is the main form: `StableDiffusionPipeline.load_lora_weights` takes it. ComfyUI and A1111 take
    what `save_kohya` writes, PEFT what `save_peft` writes.
    """

    blocks: Mapping[str, PlainBlock]
    config: ResLoRAConfig | None = None
    """Settings of the adapter that it comes from, or `None`."""
    approach: str = "none"
    """How it was merged."""
    reports: Mapping[str, BlockReport] = field(default_factory=dict)
    component: str = UNET
    """What of a pipeline `blocks` belong to: `unet`, `transformer` (Stable Diffusion 3, FLUX), or a text encoder whose
    part stands alone."""
    text_encoders: Mapping[str, Blocks] = field(default_factory=dict)
    """Blocks of `text_encoder` and `text_encoder_2`, by the paths that LoRA files have (`text_model. ...`)."""
    text_reports: Mapping[str, Mapping[str, BlockReport]] = field(default_factory=dict)
    """As `reports`, of text encoders that were merged with the U-Net."""

    def save_diffusers(
        self,
        path: str | os.PathLike[str],
        precision: Precision = "float32",
        unet_config: Mapping[str, Any] | None = None,
        **details: str,
    ) -> str:
        """Writes `pytorch_lora_weights.safetensors` in a folder, or the named .safetensors file; gives its path.

        Args:
            precision: of the file's numbers. Most LoRA files are in fp16; rounding costs about 1e-4 of the change.
            unet_config: the U-Net's own `config`, which says what kind of model the file is for; left out, it is
                guessed from the blocks.
            details: more strings for the file's metadata, for example `ss_output_name="rex"`.
        """
        metadata = self._metadata(unet_config, details)
        return writing.write_diffusers(path, self.components, metadata, precision).path

    def save_kohya(
        self,
        path: str | os.PathLike[str],
        precision: Precision = "float32",
        unet_config: Mapping[str, Any] | None = None,
        **details: str,
    ) -> str:
        """Writes one .safetensors file in kohya's naming, for ComfyUI, A1111 and kohya's scripts; gives its path.

        Modules of SDXL get the names of Stability AI's code, which kohya's scripts want. Arguments as above.

        Raises:
            ValueError: the LoRA is of a transformer.
        """
        if self.component == TRANSFORMER:
            raise ValueError(
                "Kohya's names of the layers of Stable Diffusion 3 and FLUX aren't known here. Use save_diffusers."
            )
        metadata = self._metadata(unet_config, details)
        topology = topology_of(unet_config) if unet_config else guess_topology(self.components)
        return writing.write_kohya(path, self.components, metadata, precision, topology).path

    def save_peft(
        self,
        folder: str | os.PathLike[str],
        base_model: str = "",
        task_type: str | None = None,
        trained_modules: Mapping[str, Tensor] | None = None,
        precision: Precision = "float32",
    ) -> str:
        """Writes an adapter folder for `PeftModel.from_pretrained`; gives its path.

        Args:
            base_model: name or path that PEFT loads the base model from, where it is asked to.
            task_type: PEFT's, for example `CAUSAL_LM` or `SEQ_CLS`; needed by `AutoPeftModelFor...`.
            trained_modules: parameters that were trained whole, by their path in the model, such as a new classifier's.
            precision: of the adapter's numbers.
        """
        metadata = self._origin().to_metadata()
        written = writing.write_peft(
            folder, self.components, metadata, precision, base_model, task_type, trained_modules
        )
        return written.path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlainLoRA:
        """Reads a LoRA from any of the forms that docs/files.md names: a file, or the folder that was written.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds other keys too, or is no LoRA.
        """
        file = read_lora(path)
        text_encoders = {name: blocks for name, blocks in file.components.items() if name not in (UNET, MODEL)}
        blocks, origin = file.blocks(UNET) or file.blocks(MODEL), file.origin
        return cls(blocks, origin.config, origin.approach, text_encoders=text_encoders)

    @property
    def components(self) -> dict[str, Blocks]:
        """All blocks by their part of a pipeline: the U-Net's, and those of text encoders."""
        return {self.component: self.blocks, **self.text_encoders}

    def _origin(self) -> Origin:
        return Origin(self.config, self.approach)

    def by_component(self) -> dict[str, PlainLoRA]:
        """The LoRA of each component alone: `unet`, `text_encoder`, `text_encoder_2`, as far as it has them.

        `save_kohya` of SDXL's first text encoder needs `unet_config`: its layers alone don't say that there are two.
        """
        whole: dict[str, Any] = {"text_encoders": {}, "text_reports": {}}
        alone = {
            name: replace(self, component=name, blocks=blocks, reports=self.text_reports.get(name, {}), **whole)
            for name, blocks in self.text_encoders.items()
        }
        return {self.component: replace(self, **whole), **alone} if self.blocks else alone

    def check_alone(self) -> None:
        """Whether the LoRA is of one model.

        Raises:
            ValueError: it has text encoders' blocks too, which what is done with one model would lose.
        """
        if self.text_encoders:
            raise ValueError(
                f"This LoRA is also of {' and '.join(self.text_encoders)}, and that part would be lost. Take the LoRA "
                "of each component from by_component()."
            )

    def _metadata(self, unet_config: Mapping[str, Any] | None, details: Mapping[str, str]) -> dict[str, str]:
        if unet_config and self.component == TRANSFORMER:
            raise ValueError("unet_config is for LoRAs of U-Nets, and this one is of a transformer. Leave it out.")
        family = family_of(unet_config, details.get(PREDICTION_TYPE)) if unet_config else None
        return describe(self.components, self._origin(), details, family)

    def fuse_into(self, model: nn.Module) -> float:
        """Adds the LoRA to the model's own weights, for good: sums in float32 and rounds once.

        Returns:
            The largest rounding error of a weight; 0 for a float32 model.

        Raises:
            ValueError: the model lacks one of the layers, has another size, still has its ResLoRA adapter, or uses the
                weight of one of them elsewhere, too (a tied `lm_head`), or the LoRA is of several models; nothing is
                changed then.
        """
        if any(isinstance(module, LoRABlock) for module in model.modules()):
            raise ValueError(
                "The model still has its ResLoRA adapter, which would act twice. Call adapter.remove() first."
            )
        layers = self.linears_of(model)
        check_own_weights(model, layers)
        largest = 0.0
        with torch.no_grad():
            for name, block in self.blocks.items():
                weight = layers[name].weight
                exact = weight.float() + block.delta_weight().reshape(weight.shape).to(weight.device)
                weight.copy_(exact)
                largest = max(largest, float((weight.float() - exact).abs().max()))
        return largest

    def linears_of(self, model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
        """The model's linears and convolutions that this LoRA belongs to, by name.

        Raises:
            ValueError: the model lacks one of them, or has another size, or the LoRA is of several models.
        """
        self.check_alone()
        return {name: _layer(model, name, block) for name, block in self.blocks.items()}

    def summary(self) -> dict[str, Any]:
        """Approach, ranks, errors and ||delta W||_F as plain values, for JSON; text encoders' only where there are."""
        text = {
            name: _summaries(reports, self.text_encoders[name])
            for name, reports in self.text_reports.items()
            if reports
        }
        found = {"approach": self.approach, "blocks": _summaries(self.reports, self.blocks)}
        return {**found, "text_encoders": text} if text else found


def _summaries(reports: Mapping[str, BlockReport], blocks: Blocks) -> dict[str, Any]:
    return {
        name: {
            "alpha": report.alpha,
            "alphas": list(report.alphas),
            "r": report.r,
            "error": report.error,
            "norm": blocks[name].norm(),
            "input_norm": report.input_norm,
            "explained": report.explained,
        }
        for name, report in reports.items()
    }


def _layer(model: nn.Module, name: str, block: PlainBlock) -> nn.Linear | nn.Conv2d:
    layer = _submodule(model, name)
    if layer is None:
        raise ValueError(f"The model has no {name}. This LoRA belongs to another model.")
    supported = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    if supported and _without_ones(layer.get_parameter("weight").shape) == _without_ones(block.shape):
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return layer
    size = "x".join(map(str, block.shape))
    raise ValueError(f"{name} is {layer} in the model, and {size} in this LoRA, which belongs to another model.")


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    """transformers 5 has no `text_model` in a CLIPTextModel; LoRA files keep it in their names."""
    for path in (name, name.removeprefix("text_model.")):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    return None


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A convolution of 1 x 1 is a linear; files of some tools write one as the other."""
    return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)
