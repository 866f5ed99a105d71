"""LoRAs to be read by others: trained by every method, with text encoders, and as sd-scripts writes one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.blocks.plain import PlainBlock
from tests.files.topologies import Topology, tiny_unet, topology
from tests.unets import inputs_for

RESIDUALS = ("none", "input", "block", "middle")


@functools.cache
def trained(family: str, residual: str) -> PlainLoRA:
    """Two steps with Adam, merged by the method's own default; `block` gives several ranks."""
    unet = tiny_unet(family)
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=2, lora_alpha=3, pre_num=_PRE_NUM.get(residual)))
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    batch = inputs_for(unet, batch=1)
    for _ in range(2):
        unet(**batch).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if residual not in ("input", "middle"):
        return merge(adapter)
    return merge(adapter, None, collect_statistics(adapter, [batch], lambda batch: unet(**batch)))


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


def deltas_of(components: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """What a LoRA adds to each weight, by component and path."""
    return {
        f"{component}.{path}": block.delta_weight()
        for component, blocks in components.items()
        for path, block in blocks.items()
    }
