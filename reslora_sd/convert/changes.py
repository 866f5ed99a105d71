"""A LoRA at another strength, and of a lower rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..blocks.plain import PlainBlock
from ..files.lora_file import Blocks


@dataclass(frozen=True)
class Change:
    """What came of it."""

    components: dict[str, Blocks]
    told: list[str] = field(default_factory=list)
    """For the user."""


def changed(components: Mapping[str, Blocks], rank: int | None, strength: float) -> Change:
    """Every pair times `strength`, then cut to `rank`; pairs of lower rank stay as they are.

    Raises:
        ValueError: a scale isn't finite any more.
    """
    found: dict[str, Blocks] = {name: _scaled(blocks, strength) for name, blocks in components.items()}
    if rank is None:
        return Change(found)
    cut: dict[str, Blocks] = {}
    lost, whole, worst = 0.0, 0.0, (0.0, "")
    for component, blocks in found.items():
        smaller: dict[str, PlainBlock] = {}
        for path, block in blocks.items():
            smaller[path], error = block.cut(rank)
            norm = block.norm()
            lost, whole = lost + (error * norm) ** 2, whole + norm**2
            worst = max(worst, (error, f"{component}.{path}"))
        cut[component] = smaller
    most = max((block.r for blocks in found.values() for block in blocks.values()), default=0)
    if rank >= most:
        return Change(cut, [f"No pair has more than rank {most}, so --rank {rank} changes nothing."])
    share = math.sqrt(lost / whole) if whole else 0.0
    worst_told = f"at most {worst[0]:.3%} of a layer's ({worst[1]})"
    return Change(cut, [f"Cut to rank {rank}: {share:.3%} of the change is lost, {worst_told}."])


def _scaled(blocks: Blocks, strength: float) -> dict[str, PlainBlock]:
    return {path: replace(block, scaling=block.scaling * strength) for path, block in blocks.items()}
