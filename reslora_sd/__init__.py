"""ResLoRA for Stable Diffusion: LoRA blocks with residual paths while training, merged into an ordinary LoRA after.

Paper: "ResLoRA: Identity Residual Mapping in Low-Rank Adaption", https://arxiv.org/abs/2402.18039.
"""

from .adapter import ResLoRAAdapter, add_reslora, load_reslora
from .attention import ResLoRAAttnProcessor
from .config import ResLoRAConfig
from .linear import ResLoRALinear
from .merge import merge
from .plain_lora import PlainLoRA
from .statistics import collect_statistics

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
