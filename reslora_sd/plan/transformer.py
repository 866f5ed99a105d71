"""Sites of the transformers of Stable Diffusion 3 and FLUX, found by running the model once without weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ResLoRAConfig
from .calls import recorder
from .links import Site, matches, unmatched

TRANSFORMERS = ("SD3Transformer2DModel", "FluxTransformer2DModel")
"""Classes of diffusers."""
_BLOCK = re.compile(r"(single_)?transformer_blocks\.\d+\.")
_OF_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context.")
_PICTURE, _TEXT = 4096, 512
"""Tokens of FLUX's pictures of 1024 pixels, and of its texts."""


def trace_transformer(model: nn.Module, config: ResLoRAConfig) -> list[Site]:
    """Sites of an SD3 or FLUX transformer in execution order, from one forward pass of a weightless copy.

    A chain is one projection over all blocks. FLUX's first blocks read the picture alone and its single ones picture
    and text together: their numbers of tokens differ, so that these are two chains.

    Raises:
        ValueError: a target matches nothing, or no plain linear layer; or the model's projections are fused.
    """
    targets = _targets(model, config)
    with torch.device("meta"):
        twin = type(model).from_config(model.config)  # type: ignore[attr-defined]
    calls: list[tuple[str, Tensor]] = []  # tensors are kept, so that an id is never given out again
    for name, module in twin.named_modules():
        if name in targets:
            module.register_forward_pre_hook(recorder(name, calls))
    with torch.no_grad():
        twin(**_meta_inputs(model))
    names: dict[int, str] = {}
    return [
        Site(
            name=name,
            chain=_BLOCK.sub("", name),
            in_features=targets[name].in_features,
            out_features=targets[name].out_features,
            tokens=x.shape[-2],
            input_name=names.setdefault(id(x), f"{name}:input"),
            reads_text=any(f".{part}" in f"{name}." for part in _OF_TEXT),
        )
        for name, x in calls
    ]


def _targets(model: nn.Module, config: ResLoRAConfig) -> dict[str, nn.Linear]:
    found: dict[str, nn.Linear] = {}
    idle = _idle(model)
    for name, module in model.named_modules():
        if getattr(module, "fused_projections", False):
            raise ValueError(f"{name} has fused projections. Call unfuse_qkv_projections() of the model first.")
        if not matches(name, config.target_modules) or name in idle:
            continue
        if type(module) is not nn.Linear:
            raise ValueError(
                f"{name} is a {type(module).__name__}, not a plain linear layer. Remove other adapters first "
                "(unload_lora()), or leave this module out of target_modules."
            )
        found[name] = module
    rule = unmatched(found, config.target_modules)
    if rule is not None:
        there = sorted({_BLOCK.sub("", name) for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"target_modules has {rule!r}, which matches no linear layer of this {type(model).__name__}. It has "
            f"{', '.join(there)}."
        )
    return found


def _idle(model: nn.Module) -> set[str]:
    """SD3's last block makes no text any more: what asks for it changes nothing, and would never learn."""
    blocks = (name for name, module in model.named_modules() if type(module).__name__ == "JointTransformerBlock")
    return {f"{name}.attn.add_q_proj" for name in blocks if getattr(model.get_submodule(name), "context_pre_only", 0)}


def _meta_inputs(model: Any) -> dict[str, Any]:
    """Inputs of one picture, without data."""
    config = model.config

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    given: dict[str, Any] = {
        "encoder_hidden_states": empty(1, _TEXT, config.joint_attention_dim),
        "pooled_projections": empty(1, config.pooled_projection_dim),
        "timestep": empty(1),
    }
    if type(model).__name__ == "SD3Transformer2DModel":
        side = config.sample_size
        return {**given, "hidden_states": empty(1, config.in_channels, side, side)}
    guidance = {"guidance": empty(1)} if config.guidance_embeds else {}
    ids = {"img_ids": empty(_PICTURE, 3), "txt_ids": empty(_TEXT, 3)}
    return {**given, **guidance, **ids, "hidden_states": empty(1, _PICTURE, config.in_channels)}
