"""What merging needs to know about the inputs of the blocks, gathered by running the trained model on data.

The paper gathers norms in windows during training (section 3.3). Here they come from forward passes after it: the
same numbers for the weights that are merged, no cost per training step, and nothing that a resumed run could lose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import ResLoRAAdapter
from ..blocks.block import LoRABlock
from ..blocks.tape import listening
from ..modes import evaluating


@dataclass
class BlockStatistics:
    """Sums over all tokens for one block. With e_n the middle's extra term, A_n x_{n-1} (Eq. 2) or
    sum_k A_{n-k} x_{n-k} (Eq. 4), all for the weights that the adapter had."""

    input_norms: deque[float]
    """||x_n||_F of the last forward passes (Eqs. 8 and 9)."""

    middle_norms: deque[float]
    """||A_n x_n||_F of the last forward passes (Eq. 12)."""

    cross: Tensor | None = None
    """E[e_n x_n^T], (r, in), float64; `None` where e_n needs no data: see `extra_middle`."""

    extra: Tensor | None = None
    """E[e_n e_n^T], (r, r), float64; `None` likewise."""


@dataclass
class Statistics:
    """Statistics of all blocks of one adapter. `collect_statistics` makes it."""

    window: int
    blocks: dict[str, BlockStatistics] = field(default_factory=dict)
    grams: dict[str, Tensor] = field(default_factory=dict)
    """E[x x^T] by name of the input, (in, in), float64: blocks that read one tensor share it."""
    crosses: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """E[x_{n-1} x_n^T] by names of the inputs n-1 and n, (in, in), float64, where one isn't the other."""
    squares: dict[str, float] = field(default_factory=dict)
    """E||x||^2 of a token by name of the input."""
    tokens: dict[str, int] = field(default_factory=dict)
    """How many tokens each sum has, by name of the input."""


class _Collector:
    """Adds up one forward pass after the other; all sums are float64 on the CPU."""

    def __init__(self, adapter: ResLoRAAdapter, window: int) -> None:
        self.adapter = adapter
        self.sums = Statistics(window)
        self.mask: Tensor | None = None
        """Which tokens of the running batch count, (batch, tokens) bool; `None` for all."""
        for name in adapter.blocks:
            self.sums.blocks[name] = BlockStatistics(deque(maxlen=window), deque(maxlen=window))

    def __call__(self, inputs: Mapping[str, Tensor]) -> None:
        device = next(iter(inputs.values())).device if inputs else torch.device("cpu")
        with torch.autocast(device.type, enabled=False):  # a sum of half numbers is no sum of squares any more
            self._add_pass(inputs)

    def _add_pass(self, inputs: Mapping[str, Tensor]) -> None:
        rows: dict[str, Tensor] = {}  # one (tokens, in) float32 view for each distinct input
        norms: dict[str, Tensor] = {}
        for name, block in self.adapter.blocks.items():
            if name not in inputs:
                raise RuntimeError(f"{name} did not run, so it has no statistics. Run the whole model.")
            key = block.input_name
            if key not in rows:
                rows[key] = self._rows(inputs[name].detach(), name)
                norms[key] = rows[key].norm()
                if not norms[key].isfinite():  # in any pass: one NaN spoils the sums of all
                    raise ValueError(f"The input of {name} holds NaN or infinity. The adapter or the data is broken.")
                if _needs_gram(self.adapter, key):
                    self._add(self.sums.grams, key, rows[key].T @ rows[key])
                self.sums.tokens[key] = self.sums.tokens.get(key, 0) + len(rows[key])
                self.sums.squares[key] = self.sums.squares.get(key, 0.0) + float(norms[key].double().square())
        for earlier, key in _pairs(self.adapter):
            self._add(self.sums.crosses, (earlier, key), rows[earlier].T @ rows[key])
        for name, block in self.adapter.blocks.items():
            self._add_block(self.sums.blocks[name], block, rows, norms)

    def _rows(self, x: Tensor, name: str) -> Tensor:
        """The tokens that count.  (..., in) -> (tokens, in) float32"""
        if self.mask is None:
            return x.flatten(0, -2).float()
        if self.mask.shape != x.shape[:-1]:
            raise ValueError(
                f"token_mask gives {tuple(self.mask.shape)}, but the input of {name} has {tuple(x.shape[:-1])} tokens. "
                "It must be (batch, tokens), true where a token counts."
            )
        return x[self.mask.to(x.device)].float()

    def _add_block(
        self, sums: BlockStatistics, block: LoRABlock, rows: Mapping[str, Tensor], norms: Mapping[str, Tensor]
    ) -> None:
        x = rows[block.input_name]  # (tokens, in)
        sums.input_norms.append(float(norms[block.input_name]))
        sums.middle_norms.append(float((x @ block.lora_A.float().T).norm()))
        e = extra_middle(block, self.adapter.config.residual, rows)
        if e is None:
            return
        cross, extra = (e.T @ x).double().cpu(), (e.T @ e).double().cpu()
        sums.cross = cross if sums.cross is None else sums.cross + cross
        sums.extra = extra if sums.extra is None else sums.extra + extra

    @staticmethod
    def _add(sums: dict[Any, Tensor], key: Any, value: Tensor) -> None:
        value = value.double().cpu()
        sums[key] = sums[key] + value if key in sums else value


def extra_middle(block: LoRABlock, residual: str, rows: Mapping[str, Tensor]) -> Tensor | None:
    """e_n of Eq. 2 or 4: what the path adds to A_n x_n.  {input name: (tokens, in)} -> (tokens, r)

    `None` where e_n is a known linear map of x_n: at the start of a chain, and where all predecessors read x_n too.
    """
    if residual not in ("input", "middle") or not _needs_data(block, residual):
        return None
    if residual == "input":
        return rows[block.predecessors[0].input_name] @ block.lora_A.float().T
    terms = [rows[previous.input_name] @ previous.lora_A.float().T for previous in block.predecessors]
    return torch.stack(terms).sum(0)


def _needs_gram(adapter: ResLoRAAdapter, input_name: str) -> bool:
    """Sums of (in, in) are the large ones, so only inputs whose blocks use them get one."""
    residual = adapter.config.residual
    return any(block.input_name == input_name and _needs_data(block, residual) for block in adapter.blocks.values())


def _needs_data(block: LoRABlock, residual: str) -> bool:
    """Whether the block's path brings what only data can compare with its own input."""
    return residual in ("input", "middle", "frozen") and bool(block.predecessors) and not block.shares_input


def _pairs(adapter: ResLoRAAdapter) -> set[tuple[str, str]]:
    """Names of x_{n-1} and x_n, of the nearest predecessors, where these are two tensors."""
    residual = adapter.config.residual
    pairs = {
        (block.predecessors[0].input_name, block.input_name)
        for block in adapter.blocks.values()
        if _needs_data(block, residual)
    }
    return {(earlier, key) for earlier, key in pairs if earlier != key}


def collect_statistics(
    adapter: ResLoRAAdapter,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    window: int = 32,
    token_mask: Callable[[Any], Tensor] | None = None,
) -> Statistics:
    """Runs the adapted model over data and gathers what `merge` needs.

    Args:
        adapter: the trained adapter; the model is put into eval mode for the time.
        batches: anything that `forward` takes. Some hundred samples are enough; use data like that of training.
        forward: runs the adapted model once on a batch, for example `lambda batch: unet(*batch)`.
        window: of how many forward passes, the last ones, the norms are averaged (the paper's sliding window).
        token_mask: gives a batch's (batch, tokens) mask, true where a token counts; padding must not. `None`: all.

    Raises:
        ValueError: there was no batch, a mask has another shape, or an input holds NaN or infinity.
    """
    collector = _Collector(adapter, window)
    with evaluating(adapter.model), listening(collector, adapter.model):
        for batch in batches:
            collector.mask = token_mask(batch).bool() if token_mask is not None else None
            forward(batch)
    statistics = collector.sums
    if not statistics.tokens:
        raise ValueError("No forward pass was seen. Give at least one batch, and a forward that calls the model.")
    for name, sums in statistics.blocks.items():
        count = statistics.tokens[adapter.blocks[name].input_name]
        sums.cross = None if sums.cross is None else sums.cross / count
        sums.extra = None if sums.extra is None else sums.extra / count
    statistics.grams = {name: gram / statistics.tokens[name] for name, gram in statistics.grams.items()}
    statistics.crosses = {pair: cross / statistics.tokens[pair[1]] for pair, cross in statistics.crosses.items()}
    statistics.squares = {name: square / statistics.tokens[name] for name, square in statistics.squares.items()}
    return statistics
