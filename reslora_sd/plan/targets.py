"""Which layers of a diffusers U-Net can have blocks, and short names for sets of them."""

from __future__ import annotations

from collections.abc import Sequence

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Of every attention."""
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
"""Of every transformer block."""
PROJECTIONS = ("proj_in", "proj_out")
"""Of every transformer: linear layers, or convolutions of 1 x 1 (SD 1.x)."""

TARGET_SETS = {"attention": ATTENTION, "ff": FEED_FORWARD, "kohya": (*ATTENTION, *FEED_FORWARD, *PROJECTIONS)}
"""`kohya` is what kohya-ss/sd-scripts `networks/lora.py` trains of a U-Net unless asked for more: all linear layers and
1 x 1 convolutions of `Transformer2DModel`."""


def expand_targets(names: Sequence[str]) -> tuple[str, ...]:
    """Ends of module paths, each once, with the names of sets replaced by what they stand for."""
    return tuple(dict.fromkeys(end for name in names for end in TARGET_SETS.get(name, (name,))))
