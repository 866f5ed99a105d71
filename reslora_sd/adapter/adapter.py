"""Puts ResLoRA blocks into a model, takes them out again, saves and loads the training form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..blocks.block import LoRABlock, make_blocks
from ..blocks.frozen import mapped_blocks, not_measured, share_map
from ..blocks.tape import branch_strength
from ..config import ResLoRAConfig
from ..plan.links import LinkPlan, link_sites
from ..plan.text import trace_text
from ..plan.transformer import TRANSFORMERS, trace_transformer
from ..plan.unet import trace_unet
from .layers import ResLoRAConv1x1, ResLoRALinear
from .text import attach_linears
from .training_form import read_training_form, write_training_form
from .transformer import attach_transformer
from .unet import attach_processors, check_processors

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_CLIP = "text_model."
"""What `CLIPTextModel` has before its modules' names up to transformers 5.5; the files keep it."""


@dataclass(frozen=True)
class Removal:
    """How a model becomes again what it was before it had an adapter."""

    restore: Callable[[nn.Module], None]
    """Puts the model's own modules back."""
    handles: Sequence[RemovableHandle]
    """Of the hooks."""
    trainable: Mapping[str, bool]
    """Which of its parameters were trainable, by name."""

    def __call__(self, model: nn.Module) -> None:
        """The model is handed in, so that the removal of a copied adapter acts on its copied model."""
        for handle in self.handles:
            handle.remove()
        self.restore(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trainable.get(name, parameter.requires_grad))


class ResLoRAAdapter:
    """The blocks inside a model. `add_reslora` and `load_reslora` make it; the model runs as before, with branches.

    Attributes:
        model: the model that the blocks are in.
        config: their settings.
        blocks: the blocks by the path of their frozen linear, in execution order.
    """

    def __init__(self, model: nn.Module, plan: LinkPlan, blocks: dict[str, LoRABlock], removal: Removal) -> None:
        self.model = model
        self.config = plan.config
        self.blocks = blocks
        self._plan = plan
        self._removal: Removal | None = removal

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that trains: `lora_A` and `lora_B` of every block, in execution order."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with names: path of the frozen linear, then `lora_A` or `lora_B`."""
        for name, block in self.blocks.items():
            yield f"{name}.lora_A", block.lora_A
            yield f"{name}.lora_B", block.lora_B

    def named_maps(self) -> Iterator[tuple[str, nn.Parameter | None]]:
        """The maps of residual `frozen`, each once: path of the first linear that has it, then `lora_M`.

        `None` stands for one that hasn't been measured. Other residuals have none.
        """
        for name, members in mapped_blocks(self.blocks, self.config).items():
            yield f"{name}.lora_M", members[0].lora_M

    def link_plan(self) -> LinkPlan:
        """Every block's predecessors, or the reason that it has none."""
        return self._plan

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU of all parameters and measured maps, by the names of `named_parameters`, `named_maps`."""
        maps = [(name, value) for name, value in self.named_maps() if value is not None]
        return {name: value.detach().cpu().clone() for name, value in (*self.named_parameters(), *maps)}

    def load_state_dict(self, state: Mapping[str, Tensor], source: str = "the state") -> None:
        """Takes all parameters from `state`, or changes nothing.

        A CLIP text model's names are taken with `text_model.` and without, which depends on transformers' version.

        Raises:
            ValueError: a parameter is missing, left over or of another shape.
        """
        own = dict(self.named_parameters())
        mapped = {f"{name}.lora_M": members for name, members in mapped_blocks(self.blocks, self.config).items()}
        width = {name: members[0].lora_A.shape[1] for name, members in mapped.items()}
        shapes = {
            **{name: tuple(parameter.shape) for name, parameter in own.items()},
            **{name: (size, size) for name, size in width.items()},
        }
        state = _as_named_here(state, shapes.keys())
        missing, extra = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
        if missing or extra:
            example = f"missing {missing[0]}" if missing else f"unknown {extra[0]}"
            raise ValueError(
                f"{source} belongs to another model or other settings: {len(missing)} parameters missing, "
                f"{len(extra)} unknown ({example}). Load it into the model that it was trained on."
            )
        for name, shape in shapes.items():
            if shape != tuple(state[name].shape):
                raise ValueError(
                    f"{source} belongs to another model: {name} is {tuple(state[name].shape)} there and "
                    f"{shape} here. Load it into the model that it was trained on."
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])
        for name, members in mapped.items():
            share_map(members, state[name])

    def save(self, path: str | os.PathLike[str], state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the training form: blocks with their settings, for `load_reslora`. No LoRA loader accepts it.

        Args:
            state: parameters and maps gathered elsewhere (FSDP, ZeRO-3); by default the blocks' own.

        Raises:
            RuntimeError: residual is `frozen`, and its maps haven't been measured.
        """
        for name, value in self.named_maps():
            if value is None:
                raise RuntimeError(not_measured(name.removesuffix(".lora_M")))
        write_training_form(path, state or self.state_dict(), self.config)

    def disabled(self) -> AbstractContextManager[None]:
        """Within it, forward passes of this thread give the base model's output, bit for bit."""
        return branch_strength(0.0)

    def remove(self) -> None:
        """Gives the model back as it was before: modules, hooks and what was trainable. Twice does nothing."""
        if self._removal is not None:
            self._removal(self.model)
        self._removal = None


def _as_named_here(state: Mapping[str, Tensor], names: Set[str]) -> dict[str, Tensor]:
    """`state` with the names that the model has, where they differ in `text_model.` at the beginning alone."""
    missing = names - state.keys()
    here = {name.removeprefix(_CLIP) if name.startswith(_CLIP) else _CLIP + name: name for name in missing}
    return {here.get(name, name): value for name, value in state.items()}


def add_reslora(model: nn.Module, config: ResLoRAConfig) -> ResLoRAAdapter:
    """Puts a block beside every target of a U-Net, transformer or text model, freezes all else and links the blocks.

    A new adapter changes no output, as `lora_B` is zero. `lora_A` is drawn from torch's global generator in execution
    order: with equal seed, rank and targets, every residual starts from the same blocks.

    Args:
        model: a diffusers `UNet2DConditionModel` without special attention processors, an `SD3Transformer2DModel` or
            `FluxTransformer2DModel`, or a transformers model (a causal LM, a sequence classifier, an encoder) whose
            targets are plain `nn.Linear`; no other adapters.
        config: the settings. Default `target_modules` are the U-Net's; `reslora_sd.text.models` has those of others.

    Raises:
        TypeError: `model` is none of these.
        ValueError: targets match nothing or no linear, or the model has an adapter or processors that would be lost.
    """
    is_transformer = type(model).__name__ in TRANSFORMERS
    is_unet = not is_transformer and hasattr(model, "attn_processors") and hasattr(model, "set_attn_processor")
    if not is_transformer and not is_unet and not hasattr(model, "get_input_embeddings"):
        raise TypeError(
            "add_reslora takes a diffusers U-Net (pipeline.unet), the transformer of Stable Diffusion 3 or FLUX "
            "(pipeline.transformer) or a transformers text model, not a "
            f"{type(model).__name__}."
        )
    if any(isinstance(module, ResLoRALinear | ResLoRAConv1x1) for module in model.modules()):
        raise ValueError("The model has a ResLoRA adapter already. Call its remove() before adding another.")
    if is_unet:
        check_processors(model)
        sites = trace_unet(cast("UNet2DConditionModel", model), config)
    else:
        sites = trace_transformer(model, config) if is_transformer else trace_text(model, config)
    plan = link_sites(sites, config)
    blocks = make_blocks(plan)
    for name, block in blocks.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        block.to(weight.device)

    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    attach = attach_processors if is_unet else attach_transformer if is_transformer else attach_linears
    restore, handles = attach(model, blocks, config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in trainable)  # the blocks' are new
    return ResLoRAAdapter(model, plan, blocks, Removal(restore, handles, trainable))


def load_reslora(model: nn.Module, path: str | os.PathLike[str]) -> ResLoRAAdapter:
    """Puts an adapter that `ResLoRAAdapter.save` wrote into a model. An error leaves the model as it was.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, no training form, or belongs to another model.
    """
    state, config = read_training_form(path)
    try:
        adapter = add_reslora(model, config)
    except ValueError as error:
        raise ValueError(f"{path} can't be put into this model: {str(error)[:600]}") from error
    try:
        adapter.load_state_dict(state, str(path))
    except BaseException:
        adapter.remove()
        raise
    return adapter
