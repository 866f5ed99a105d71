"""LoRAs to be read by others: trained by every method, with text encoders, and as sd-scripts writes one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.plan.links import Site
from reslora_sd.plan.unet import trace_unet
from tests.files.topologies import Topology, tiny_unet, topology
from tests.unets import inputs_for

RESIDUALS = ("none", "input", "block", "middle")
DRAWN, TEXT = "drawn", "drawn with text encoders"
KINDS = (*RESIDUALS, TEXT)
"""Of LoRAs: trained with a residual path of that name, or drawn at random."""


def lora_of(family: str, kind: str) -> PlainLoRA:
    """One of `KINDS`, or `DRAWN`."""
    if kind in RESIDUALS:
        return trained(family, kind)
    blocks = dict(drawn(family, kind == TEXT))
    return PlainLoRA(blocks.pop("unet"), text_encoders=blocks)


@functools.cache
def trained(family: str, residual: str) -> PlainLoRA:
    """Two steps with Adam, merged by the method's own default; `block` gives several ranks."""
    unet = tiny_unet(family)
    config = ResLoRAConfig(residual=residual, r=2, lora_alpha=3, pre_num=_PRE_NUM.get(residual))
    with mock.patch("reslora_sd.adapter.adapter.trace_unet", lambda unet, config: _sites(family)):
        adapter = add_reslora(unet, config)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    batch = inputs_for(unet, batch=1)
    for _ in range(2):
        unet(**batch).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if residual not in ("input", "middle"):
        return merge(adapter)
    return merge(adapter, None, collect_statistics(adapter, [batch], lambda batch: unet(**batch)))


@functools.cache
def _sites(family: str) -> list[Site]:
    """One trace for all residuals: for SDXL it takes as long as the training."""
    return trace_unet(tiny_unet(family), ResLoRAConfig())


_PRE_NUM = {"block": 2, "middle": 2}


@functools.cache
def drawn(family: str, text: bool, seed: int = 0) -> Mapping[str, Mapping[str, PlainBlock]]:
    """By component: the U-Net's attention, MLPs and projections, the text encoders' layers; ranks and scales differ."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, PlainBlock]] = {}
    for component, path, shape in _layers(topology(family), text):
        number = len(found.setdefault(component, {}))
        found[component][path] = _pair(shape, 1 + number % 3, (0.5, 1.0, 1.75)[number % 3], generator)
    return found


@functools.cache
def as_sd_scripts_writes(family: str) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a LoRA with sd-scripts' defaults: rank 4, alpha 1; text encoders, MLPs, projections.

    Source: kohya-ss/sd-scripts `networks/lora.py`, `library/train_util.py`.
    """
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    model = topology(family)
    for component, path, shape in _layers(model, text=True):
        block = _pair(shape, 4, 1 / 4, generator)
        name = model.original[path] if family == "sdxl" and component == "unet" else path
        stem = _PREFIXES[family == "sdxl"][component] + name.replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = block.lora_A
        tensors[f"{stem}.lora_up.weight"] = block.lora_B
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    version = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[family]
    metadata = {"ss_network_dim": "4", "ss_network_alpha": "1.0", "ss_network_module": "networks.lora"}
    return tensors, {**metadata, "ss_base_model_version": version, "ss_v2": str(family == "sd2")}


_PREFIXES = (
    {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
)


def _layers(model: Topology, text: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    """Component, path and shape of what sd-scripts trains by default."""
    return [
        (component, path, shape)
        for component, shapes in model.shapes.items()
        for path, shape in shapes.items()
        if (component == "unet" and ".attentions." in path) or (text and ".encoder." in path)
    ]


def _pair(shape: tuple[int, ...], r: int, scaling: float, generator: torch.Generator) -> PlainBlock:
    """Of a linear or a 1 x 1 convolution."""

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).float() * 0.1

    return PlainBlock(draw(r, *shape[1:]), draw(shape[0], r, *(1 for _ in shape[2:])), scaling)


def deltas_of(components: Mapping[str, Mapping[str, PlainBlock]]) -> dict[str, Tensor]:
    """What a LoRA adds to each weight, by component and path."""
    return {f"{component}.{path}": block.delta_weight() for component, path, block in _blocks(components)}


def _blocks(components: Mapping[str, Mapping[str, PlainBlock]]) -> Iterator[tuple[str, str, PlainBlock]]:
    return ((component, path, block) for component, blocks in components.items() for path, block in blocks.items())


@dataclass(frozen=True)
class Expected:
    """What every tool has to make of a LoRA, by component and path."""

    deltas: Mapping[str, Tensor]
    norms: Mapping[str, float]
    """Of the deltas."""
    sizes: Mapping[str, float]
    """scaling ||lora_A|| ||lora_B||: rounding both to fp16 costs a thousandth of it at most."""


@functools.cache
def expected_of(family: str, kind: str) -> Expected:
    """As `lora_of`."""
    components = lora_of(family, kind).components
    deltas = deltas_of(components)
    sizes = {
        f"{c}.{path}": float(one.scaling * one.lora_A.norm() * one.lora_B.norm())
        for c, path, one in _blocks(components)
    }
    return Expected(deltas, {name: float(delta.norm()) for name, delta in deltas.items()}, sizes)
