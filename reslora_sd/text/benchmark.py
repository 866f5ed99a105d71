"""What a training step of each method costs on a text model beside PEFT's LoRA, side by side in one process.

    python -m reslora_sd.text.benchmark [--quick] [--json FILE] [--model FOLDER_OR_HUB_NAME]

As `reslora_sd.benchmark`: every round times one step of each method on the same random tokens. The frozen weights are
shared, so that all methods fit into memory together.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..benchmark import QUICK_SECONDS, SECONDS, finish, measure
from ..merging.frozen import freeze_paths
from ..runs.names import METHODS
from ..training.method import AnyMethod
from .methods import attach
from .models import SMOLLM2, load_causal_lm, target_modules_for
from .settings import TextMethod

BASELINE = "peft"
METHODS_OF_PEFT = ("adalora", "loha", "lokr")


def make_step(model: Any, method: str, ids: Tensor, rank: int) -> Callable[[], None]:
    """A training step of one method on a copy of the model that shares its frozen weights."""
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    if method == BASELINE:
        from peft import LoraConfig, get_peft_model

        targets = list(target_modules_for(model))
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    else:
        settings = TextMethod(method=cast(AnyMethod, method), rank=rank, lora_alpha=2.0 * rank)
        attached = attach(model, settings, total_steps=1000, seed=0)
        model = attached.model
        if attached.adapter is not None and attached.adapter.config.residual == "frozen":
            freeze_paths(attached.adapter, [ids], lambda given: model(input_ids=given))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)
    model.train()

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all methods; gives the figures as plain values."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _ = load_causal_lm(arguments.model)
    model.to(device)
    torch.manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (arguments.batch_size, arguments.tokens), device=device)
    names = (BASELINE, *METHODS, *METHODS_OF_PEFT)
    steps = {name: make_step(model, name, ids, arguments.rank) for name in names}
    return {
        "model": arguments.model,
        "rank": arguments.rank,
        "batch_size": arguments.batch_size,
        "tokens": arguments.tokens,
        **measure(steps, QUICK_SECONDS if arguments.quick else SECONDS),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m reslora_sd.text.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=SMOLLM2, help="A folder, a Hub name, or smollm2.")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=72, help="Of every row.")
    finish(parser, argv, run)


if __name__ == "__main__":
    main()
