"""ResLoRA for Stable Diffusion: LoRA blocks with residual paths while training, merged into an ordinary LoRA after.

Paper: "ResLoRA: Identity Residual Mapping in Low-Rank Adaption", https://arxiv.org/abs/2402.18039.

Names are loaded when they are first used (PEP 562), so that importing the package costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter.adapter import ResLoRAAdapter, add_reslora, load_reslora
    from .adapter.layers import ResLoRALinear
    from .adapter.unet import ResLoRAAttnProcessor
    from .config import ResLoRAConfig
    from .merging.merge import merge
    from .merging.plain_lora import PlainLoRA
    from .merging.statistics import collect_statistics

_MODULES = {
    "PlainLoRA": "merging.plain_lora",
    "ResLoRAAdapter": "adapter.adapter",
    "ResLoRAAttnProcessor": "adapter.unet",
    "ResLoRAConfig": "config",
    "ResLoRALinear": "adapter.layers",
    "add_reslora": "adapter.adapter",
    "collect_statistics": "merging.statistics",
    "load_reslora": "adapter.adapter",
    "merge": "merging.merge",
}
"""Where each public name is defined."""

__all__ = [
    "PlainLoRA",
    "ResLoRAAdapter",
    "ResLoRAAttnProcessor",
    "ResLoRAConfig",
    "ResLoRALinear",
    "add_reslora",
    "collect_statistics",
    "load_reslora",
    "merge",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
