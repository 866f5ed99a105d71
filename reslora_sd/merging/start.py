"""Starting an adapter from a plain LoRA: the reverse of a merge.

| residual | the model is then the given LoRA                                                                |
| -------- | ----------------------------------------------------------------------------------------------- |
| `none`   | exactly                                                                                         |
| `input`  | exactly where a chain starts and where x_{n-1} is x_n; elsewhere as closely as A_n can           |
| `block`  | exactly if r is enough for a block less its predecessors, twice the given rank in short chains   |
| `frozen` | exactly, where I + M can be inverted                                                            |
| `middle` | exactly if r is enough for a block and its predecessors together; else as closely as A_n can    |

A given rank above r is cut by SVD; below it, further rows of lora_A are a new adapter's, with columns of zero in
lora_B, so that they change nothing and can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.adapter import ResLoRAAdapter
from ..blocks.block import LoRABlock
from ..blocks.plain import PlainBlock, balanced_pair, cut_pair
from ..blocks.tape import listening
from ..modes import evaluating
from .applied import applied
from .frozen import start_frozen
from .plain_lora import PlainLoRA
from .start_block import Pair, take_off_predecessors
from .start_paths import StartSums, own_rows, waves


@dataclass(frozen=True)
class BlockStart:
    """How one block was started."""

    rank: int
    """Of the pair that was given."""
    cut: float = 0.0
    """||given - cut||_F / ||given||_F where the given rank was above the adapter's."""
    error: float = 0.0
    """How far the branch's output (`block`: its matrix) is from that of the pair, as a share of it; 0 is exact."""


@dataclass(frozen=True)
class Match:
    """What an adapter can take of a LoRA."""

    taken: PlainLoRA
    left_out: tuple[str, ...]
    """What the adapter has no place for."""
    missing: tuple[str, ...]
    """Blocks of the adapter that the LoRA says nothing of."""


def match(adapter: ResLoRAAdapter, plain: PlainLoRA) -> Match:
    """Finds each pair's block. Whether a pair may be without one is for the caller to say.

    Raises:
        ValueError: the LoRA is of another model, by name or shape.
    """
    taken, left_out = {}, [f"{part}.{name}" for part, blocks in plain.text_encoders.items() for name in blocks]
    for name, pair in plain.blocks.items():
        _check_shape(adapter.model, name, pair)
        if name in adapter.blocks:
            taken[name] = pair
        else:
            left_out.append(name)
    missing = tuple(name for name in adapter.blocks if name not in taken)
    return Match(PlainLoRA(taken, plain.config, plain.approach), tuple(left_out), missing)


def start_from(
    adapter: ResLoRAAdapter,
    plain: PlainLoRA,
    batches: Callable[[], Iterable[Any]],
    forward: Callable[[Any], object],
) -> dict[str, BlockStart]:
    """Gives the blocks of a new adapter the values with which the model is that LoRA, as far as there are such.

    Args:
        adapter: as `add_reslora` made it. After an error it is unusable.
        plain: `Match.taken`. Blocks that it doesn't name add nothing.
        batches: data like that of training, anew with each call; used where a path can only be approximated.
        forward: runs the adapted model once on a batch.

    Returns:
        for each pair that was given, what became of it.
    """
    residual = adapter.config.residual
    given: dict[str, Pair] = {}
    starts: dict[str, BlockStart] = {}
    for name, pair in plain.blocks.items():
        A, B = pair.matrices()
        A, B, lost = cut_pair(A.float(), B.float(), adapter.blocks[name].r)
        given[name] = (A, B * (pair.scaling / adapter.blocks[name].scaling))
        starts[name] = BlockStart(pair.r, lost)

    def listen(sums: StartSums) -> None:
        with evaluating(adapter.model), applied(plain, adapter.model), listening(sums, adapter.model):
            for batch in batches():
                forward(batch)

    errors: dict[str, float] = {}
    with torch.no_grad():
        if residual == "block":
            pairs, errors = take_off_predecessors(adapter.blocks, given)
            for name, (A, B) in pairs.items():
                _put(adapter.blocks[name], A, B)
        elif residual == "frozen":
            for name, (A, B) in given.items():
                A, errors[name] = start_frozen(adapter.blocks[name], adapter.config, A, B)
                _put(adapter.blocks[name], A, B)
        elif residual == "middle":
            errors = _start_middle(adapter, given, listen)
        else:
            errors = _start_input(adapter, given, listen)
    return {name: BlockStart(one.rank, one.cut, errors.get(name, 0.0)) for name, one in starts.items()}


def _start_input(
    adapter: ResLoRAAdapter, given: Mapping[str, Pair], listen: Callable[[StartSums], None]
) -> dict[str, float]:
    """Eqs. 1 and 2: A_n is G, or G/2 where the branch meets x_n twice, or the closest one."""
    is_input = adapter.config.residual == "input"
    needing = [
        adapter.blocks[name]
        for name in given
        if adapter.blocks[name].predecessors and is_input and not adapter.blocks[name].shares_input
    ]
    sums = StartSums(needing, {name: A for name, (A, _) in given.items()}, {})
    if needing:
        listen(sums)
    errors = {}
    for name, (A, B) in given.items():
        block = adapter.blocks[name]
        if name in sums.sums:
            A, errors[name] = sums.solve(block, B)
        elif is_input and (block.predecessors or adapter.config.first_block == "self"):
            A = A / 2
        _put(block, A, B)
    return errors


def _start_middle(
    adapter: ResLoRAAdapter, given: Mapping[str, Pair], listen: Callable[[StartSums], None]
) -> dict[str, float]:
    """Eq. 4: A_n is G less what the path adds, as far as that is a map of x_n; each wave needs the one before."""
    blocks = adapter.blocks
    sorted_by_size = {name: balanced_pair(A, B) for name, (A, B) in given.items()}
    given = {name: (A, B) for name, (A, B, _) in sorted_by_size.items()}
    rows = own_rows(blocks, {name: sizes.tolist() for name, (_, _, sizes) in sorted_by_size.items()})
    for name, block in blocks.items():  # what a successor's B reads must not be a new adapter's random rows
        for one in block.predecessors:
            one.lora_A[rows[name]] = 0.0
    when, errors = waves(blocks, rows), {}
    for wave in range(max(when.values()) + 1):
        needing = [blocks[name] for name in given if when[name] == wave and wave and not blocks[name].shares_input]
        sums = StartSums(needing, {name: A for name, (A, _) in given.items()}, rows)
        if needing:
            listen(sums)
        for name in (name for name in blocks if name in given and when[name] == wave):
            (A, B), block = given[name], blocks[name]
            if name in sums.sums:
                A, errors[name] = sums.solve(block, B)
            elif block.shares_input:
                for one in block.predecessors:
                    A = A - one.lora_A[rows[name]].cpu()
            _put(block, A, B, rows[name])
    return errors


def _put(block: LoRABlock, A: Tensor, B: Tensor, rows: list[int] | None = None) -> None:
    """Sets some rows of lora_A and columns of lora_B, by default the first; the others of lora_B stay zero."""
    places = list(range(len(A))) if rows is None else rows
    block.lora_A[places] = A.to(block.lora_A)
    block.lora_B[:, places] = B.to(block.lora_B)


def _check_shape(model: nn.Module, name: str, pair: PlainBlock) -> None:
    try:
        weight = model.get_submodule(name).weight
    except AttributeError:
        raise ValueError(f"The model has no {name}. This LoRA belongs to another model.") from None
    there, here = (_size(one) for one in (weight.shape if isinstance(weight, Tensor) else (), pair.shape))
    if there != here:
        raise ValueError(
            f"{name} is {there or 'no layer'} in the model, and {here} in this LoRA, which belongs to another model."
        )


def _size(shape: Iterable[int]) -> str:
    """As `320x768`; a kernel of 1 x 1 counts as none."""
    return "x".join(map(str, shape)).removesuffix("x1x1")
