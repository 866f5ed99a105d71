"""What an adapter would be in a model that need not fit into memory: the link plan and the parameter count.

    python -m reslora_sd.text.plan --model llama-2-7b --method reslora_bs

Builds the model from its config on the `meta` device, without weights. Defaults are appendix C's settings: rank 4,
alpha 8, query and value projections, pre_num 4, and nothing added where a chain starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from ..adapter.adapter import ResLoRAAdapter, add_reslora
from ..config import ResLoRAConfig
from ..runs.names import METHODS
from ..training.command import run_command
from .models import loading, target_modules_for

SHAPES = {
    # Llama-2-7b-hf's config.json has what LlamaConfig has by default, and so has roberta-base's RobertaConfig
    "llama-2-7b": ("LlamaConfig", "AutoModelForCausalLM", {}),
    "roberta-large": (
        "RobertaConfig",
        "AutoModelForSequenceClassification",
        {
            "vocab_size": 50265,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "max_position_embeddings": 514,
        },
    ),
}
"""The paper's two models, for machines that have neither: class of the config, kind of the model, sizes."""


def model_without_weights(name: str) -> Any:
    """A model on the `meta` device.

    Args:
        name: `llama-2-7b`, `roberta-large`, or a folder or Hub name whose config.json is read.

    Raises:
        ValueError: there is no such config.
    """
    import transformers

    if name in SHAPES:
        config_class, kind, sizes = SHAPES[name]
        config = getattr(transformers, config_class)(**sizes)
    else:
        with loading(name):
            config = transformers.AutoConfig.from_pretrained(name)
        generates = any("CausalLM" in one or "LMHead" in one for one in config.architectures or ())
        kind = "AutoModelForCausalLM" if generates else "AutoModelForSequenceClassification"
    with torch.device("meta"):
        return getattr(transformers, kind).from_config(config)


def describe(name: str, model: Any, adapter: ResLoRAAdapter) -> str:
    """The link plan, and what trains of how much, as lines to read."""
    trained, whole = adapter.num_parameters(), sum(p.numel() for p in model.parameters())
    frozen = whole - trained
    return (
        f"{name}: {frozen:,} parameters, {trained:,} more train ({100 * trained / frozen:.3f} %)\n{adapter.link_plan()}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one model's plan."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", default="llama-2-7b", help=f"{', '.join(SHAPES)}, a folder or a Hub name")
    parser.add_argument("--method", default="reslora_is", choices=list(METHODS))
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lora_alpha", type=float, default=8.0)
    parser.add_argument("--pre_num", type=int, help="predecessors of reslora_bs and reslora_ms (left out: 4)")
    parser.add_argument("--first_block", default="none", choices=["self", "none"])
    parser.add_argument("--target_modules", nargs="+", help="ends of module paths (left out: q and v)")
    args = parser.parse_args(argv)
    model = model_without_weights(args.model)
    config = ResLoRAConfig(
        residual=METHODS[args.method],
        r=args.rank,
        lora_alpha=args.lora_alpha,
        pre_num=args.pre_num,
        first_block=args.first_block,
        target_modules=tuple(args.target_modules or target_modules_for(model)),
    )
    print(describe(args.model, model, add_reslora(model, config)))


if __name__ == "__main__":
    run_command(main)
