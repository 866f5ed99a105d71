"""Sites of a U-Net: which linears run, in which order, found by running the model once without weights.

A model registers its modules in an order of its own (diffusers registers the U-Net's mid block last), so that the
order of a chain is taken from one forward pass on the `meta` device, never from `named_modules()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..config import ResLoRAConfig
from .links import Site, matches

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def trace_unet(unet: UNet2DConditionModel, config: ResLoRAConfig) -> list[Site]:
    """Sites of a diffusers U-Net in execution order, from one forward pass of a weightless copy.

    Raises:
        ValueError: `target_modules` matches none of the attention projections, or something that isn't one.
    """
    calls: list[tuple[str, int, bool]] = []  # attention, its tokens, reads the text
    with torch.device("meta"):
        twin = type(unet).from_config(unet.config)
    for name, module in twin.named_modules():
        if type(module).__name__ == "Attention":
            module.register_forward_pre_hook(_recorder(name, calls), with_kwargs=True)
    with torch.no_grad():
        twin(**_meta_inputs(unet))
    sites = []
    for name, tokens, reads_text in calls:
        attention = unet.get_submodule(name)
        for projection in _PROJECTIONS:
            path = f"{name}.{projection}"
            if not matches(path, config.target_modules):
                continue
            linear = attention.get_submodule(projection)
            if not isinstance(linear, torch.nn.Linear):
                raise ValueError(
                    f"{path} is a {type(linear).__name__}, not a linear layer. Remove other adapters from the U-Net "
                    "first (unet.unload_lora()), or leave this module out of target_modules."
                )
            sites.append(
                Site(
                    name=path,
                    chain=projection if config.across_attention else f"{name.rsplit('.', 1)[-1]}.{projection}",
                    in_features=linear.in_features,
                    out_features=linear.out_features,
                    tokens=tokens,
                    input_name=_input_name(name, projection, reads_text),
                    reads_text=reads_text and projection in ("to_k", "to_v"),
                )
            )
    _check_targets(unet, config, sites)
    return sites


def _recorder(name: str, calls: list[tuple[str, int, bool]]) -> Any:
    def record(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        text = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        tokens = hidden.shape[1] if hidden.ndim == 3 else hidden.shape[2] * hidden.shape[3]
        if any(seen == name for seen, _, _ in calls):
            raise ValueError(f"{name} runs twice in one forward pass, so that its predecessor isn't defined.")
        calls.append((name, tokens, text is not None))

    return record


def _input_name(attention: str, projection: str, reads_text: bool) -> str:
    if projection == "to_out.0":
        return f"{attention}:heads"
    if reads_text and projection in ("to_k", "to_v"):
        return "encoder_hidden_states"
    return f"{attention}:hidden_states"


def _meta_inputs(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Inputs of one picture of the model's own size, without data."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    text_size = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    if not isinstance(text_size, int):
        text_size = text_size[0]
    inputs: dict[str, Any] = {
        "sample": torch.empty(1, unet.config.in_channels, height, width, device="meta"),
        "timestep": torch.zeros(1, dtype=torch.long, device="meta"),
        "encoder_hidden_states": torch.empty(1, 77, text_size, device="meta"),
    }
    if unet.config.addition_embed_type == "text_time":  # SDXL: a pooled text embedding and six numbers of size
        ids = 6 * unet.config.addition_time_embed_dim
        pooled = unet.config.projection_class_embeddings_input_dim - ids
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled, device="meta"),
            "time_ids": torch.empty(1, 6, device="meta"),
        }
    return inputs


def _check_targets(unet: torch.nn.Module, config: ResLoRAConfig, sites: Sequence[Site]) -> None:
    """Every target has to match something, and whatever matches has to be an attention projection."""
    found = {site.name for site in sites}
    stray = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and matches(name, config.target_modules) and name not in found
    ]
    if stray:
        raise ValueError(
            f"target_modules also matches {stray[0]} ({len(stray)} such modules), which is no attention projection. "
            f"ResLoRA for U-Nets takes {', '.join(_PROJECTIONS)}."
        )
    targets = [config.target_modules] if isinstance(config.target_modules, str) else list(config.target_modules)
    for target in targets:
        rule = target if isinstance(config.target_modules, str) else (target,)
        if not any(matches(name, rule) for name in found):
            raise ValueError(
                f"target_modules has {target!r}, which matches no attention projection of this U-Net. "
                f"It may be {', '.join(_PROJECTIONS)}, or the end of a path such as 'attn1.to_q'."
            )
