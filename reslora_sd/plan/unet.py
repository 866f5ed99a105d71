"""Sites of a U-Net: which linears run, in which order, found by running the model once without weights.

A model registers its modules in an order of its own (diffusers registers the U-Net's mid block last), so that the
order of a chain is taken from one forward pass on the `meta` device, never from `named_modules()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..config import ResLoRAConfig
from .links import Site, matches, unmatched
from .targets import ATTENTION, FEED_FORWARD, PROJECTIONS

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_TAKEN = f"the linear layers {', '.join((*ATTENTION, *FEED_FORWARD))}, and {' and '.join(PROJECTIONS)}"


@dataclass(frozen=True)
class _Call:
    """What ran: an attention, or one of the other layers."""

    name: str
    tokens: int
    is_attention: bool
    reads_text: bool = False


def trace_unet(unet: UNet2DConditionModel, config: ResLoRAConfig) -> list[Site]:
    """Sites of a diffusers U-Net in execution order, from one forward pass of a weightless copy.

    Sites lie in its attentions and, of its transformers, in the feed-forward layers and the projections in and out.

    Raises:
        ValueError: `target_modules` matches none of these, or something that isn't one.
    """
    settings = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    kind: Any = type(unet)
    calls = _calls(kind, json.dumps(settings, sort_keys=True), config.target_modules)
    sites = []
    for call in calls:
        sites += list(_attention_sites(unet, call, config)) if call.is_attention else [_other_site(unet, call)]
    _check_targets(unet, config, sites)
    return sites


@lru_cache(maxsize=16)
def _calls(kind: type[UNet2DConditionModel], settings: str, targets: tuple[str, ...] | str) -> tuple[_Call, ...]:
    """What runs in a U-Net of this configuration (JSON), in order; kept, as a pass takes half a second and more."""
    calls: list[_Call] = []
    with torch.device("meta"):
        twin = kind.from_config(json.loads(settings))
    others = {name for name in _other_layers(twin) if matches(name, targets)}
    for name, module in twin.named_modules():
        if type(module).__name__ == "Attention":
            module.register_forward_pre_hook(_attention_recorder(name, calls), with_kwargs=True)
        elif name in others:
            module.register_forward_pre_hook(_layer_recorder(name, calls))
    with torch.no_grad():
        twin(**_meta_inputs(twin))
    return tuple(calls)


def _other_layers(unet: nn.Module) -> Iterator[str]:
    """Paths of a transformer's layers outside of its attentions that can have blocks."""
    for name, module in unet.named_modules():
        ends = {"Transformer2DModel": PROJECTIONS, "BasicTransformerBlock": FEED_FORWARD}.get(type(module).__name__, ())
        present = {path for path, _ in module.named_modules()} if ends else set()
        yield from (f"{name}.{end}" for end in ends if end in present)


def _attention_sites(unet: nn.Module, call: _Call, config: ResLoRAConfig) -> Iterator[Site]:
    attention = unet.get_submodule(call.name)
    for projection in ATTENTION:
        path = f"{call.name}.{projection}"
        if not matches(path, config.target_modules):
            continue
        linear = attention.get_submodule(projection)
        if not isinstance(linear, nn.Linear):
            raise ValueError(_no_plain_layer(path, linear))
        yield Site(
            name=path,
            chain=projection if config.across_attention else f"{call.name.rsplit('.', 1)[-1]}.{projection}",
            in_features=linear.in_features,
            out_features=linear.out_features,
            tokens=call.tokens,
            input_name=_input_name(call.name, projection, call.reads_text),
            reads_text=call.reads_text and projection in ("to_k", "to_v"),
        )


def _other_site(unet: nn.Module, call: _Call) -> Site:
    layer = unet.get_submodule(call.name)
    if type(layer) is nn.Linear:
        size = layer.in_features, layer.out_features
    elif type(layer) is nn.Conv2d and layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1:
        size = layer.in_channels, layer.out_channels
    else:
        raise ValueError(_no_plain_layer(call.name, layer))
    chain = next(end for end in (*FEED_FORWARD, *PROJECTIONS) if call.name.endswith(f".{end}"))
    return Site(call.name, chain, *size, tokens=call.tokens, input_name=f"{call.name}:input")


def _no_plain_layer(path: str, layer: nn.Module) -> str:
    return (
        f"{path} is a {type(layer).__name__}, not a linear layer. Remove other adapters from the U-Net "
        "first (unet.unload_lora()), or leave this module out of target_modules."
    )


def _attention_recorder(name: str, calls: list[_Call]) -> Any:
    def record(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        text = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        tokens = hidden.shape[1] if hidden.ndim == 3 else hidden.shape[2] * hidden.shape[3]
        _note(calls, _Call(name, tokens, is_attention=True, reads_text=text is not None))

    return record


def _layer_recorder(name: str, calls: list[_Call]) -> Any:
    def record(_module: object, args: tuple[Any, ...]) -> None:
        hidden = args[0]  # (batch, tokens, in), or (batch, in, height, width)
        tokens = hidden.shape[1] if hidden.ndim == 3 else hidden.shape[2] * hidden.shape[3]
        _note(calls, _Call(name, tokens, is_attention=False))

    return record


def _note(calls: list[_Call], call: _Call) -> None:
    if any(seen.name == call.name for seen in calls):
        raise ValueError(f"{call.name} runs twice in one forward pass, so that its predecessor isn't defined.")
    calls.append(call)


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


def _check_targets(unet: nn.Module, config: ResLoRAConfig, sites: Sequence[Site]) -> None:
    """Every target has to match something, and whatever matches has to be a layer that can have a block."""
    found = {site.name for site in sites}
    stray = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and matches(name, config.target_modules) and name not in found
    }
    if stray:
        first, layer = next(iter(stray.items()))
        what = f"a convolution of {'x'.join(map(str, layer.kernel_size))}" if isinstance(layer, nn.Conv2d) else "linear"
        raise ValueError(
            f"target_modules also matches {first} ({len(stray)} such modules), which is {what} but no layer of a "
            f"transformer that can have a block. ResLoRA for U-Nets takes {_TAKEN}. Leave it out."
        )
    rule = unmatched(found, config.target_modules)
    if rule is not None:
        raise ValueError(
            f"target_modules has {rule!r}, which matches no layer of this U-Net that can have a block. It may be one "
            f"of {_TAKEN}, or the end of a path such as 'attn1.to_q'."
        )
