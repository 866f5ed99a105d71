"""The maps of `reslora_frozen`, measured on the base model with what the first steps of the training draw."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from ..adapter.adapter import ResLoRAAdapter
from ..blocks.frozen import mapped_blocks
from ..merging.frozen import freeze_paths
from ..runs.names import FROZEN_PATHS_KEY
from .adapters import Adapters
from .batches import Batch, BatchMaker
from .calibration import predict
from .models import Parts
from .other_texts import other_texts
from .progress import stage

_TOKENS_A_FEATURE, _LEAST = 32, 16
"""As the merges of text models: least squares solves for as many numbers as a block has input features. On the included
model that is 64 noisy pictures, whose maps explain 79.0 % of other pictures' inputs; those of 256 explain 80.8 %."""


def first_batches(batches: BatchMaker, pictures: int) -> Iterator[Batch]:
    """The batches of the first steps, of all processes, until there are so many pictures.

    Every process gets the same ones, and one process alone gets what several together train on.
    """
    for step in range(math.ceil(pictures / (batches.batch_size * batches.processes))):
        for rank in range(batches.processes):
            share = copy.copy(batches)
            share.rank = rank
            yield share(step)


def path_samples(adapter: ResLoRAAdapter) -> int:
    """How many noisy pictures are enough for every map."""
    links, mapped = adapter.link_plan(), mapped_blocks(adapter.blocks, adapter.config)
    sites = [link.site for link in links if link.site.name in mapped]
    return max([_LEAST, *(math.ceil(_TOKENS_A_FEATURE * site.in_features / site.tokens) for site in sites)])


def measure_paths(adapters: Adapters, parts: Parts, batches: BatchMaker, pictures: int | None) -> dict[str, Any]:
    """Measures the maps of new adapters; nothing is done for other methods. Text encoders see the same captions,
    and `other_texts`.

    Args:
        pictures: `--path_samples`.

    Returns:
        for run.json: how many noisy pictures were seen, and what share of each x_{n-1} its x_n explains.
    """
    adapter = adapters.unet
    if adapter.config.residual != "frozen":
        return {}
    chosen = list(first_batches(batches, pictures or path_samples(adapter)))
    with stage("measuring the paths", len(chosen)) as bar:

        def forward(batch: Batch) -> None:
            predict(parts.unet, parts, batch)
            bar.update()

        explained = freeze_paths(adapter, chosen, forward)
        for component, one in adapters.text.items():
            texts = [*other_texts(parts), *(batch.conditioning for batch in chosen)]
            found = freeze_paths(one, texts, lambda text: text.arguments())
            explained |= {f"{component}.{name}": share for name, share in found.items()}
    return {FROZEN_PATHS_KEY: {"pictures": sum(len(batch.timesteps) for batch in chosen), "explained": explained}}
