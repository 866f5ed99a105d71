"""Starts of Eq. 3: which B_n A_n make the sums over predecessors the products that are given. No data is needed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..blocks.block import LoRABlock
from ..blocks.plain import balanced_pair

Pair = tuple[Tensor, Tensor]
"""A (k, in) and B (out, k): the product B A."""

_ROUNDS = 4
_EXACT = 1e-6


def take_off_predecessors(
    blocks: Mapping[str, LoRABlock], given: Mapping[str, Pair]
) -> tuple[dict[str, Pair], dict[str, float]]:
    """X_n = B_n A_n of rank r with sum_{k>=0} X_{n-k} = D_n, in the order of the chains.

    With D_n of rank r' each, X_n is D_n at a chain's start and D_n less its predecessors' X elsewhere: D_n - D_{n-1}
    where a block uses all blocks before it, so that this is exact from r = 2 r' on. A lower rank holds it in part:
    each X_n is then the best one for all sums that it stands in, again and again in turn, which lowers the sum of the
    squared errors each time.

    Args:
        blocks: of one adapter, in execution order.
        given: D_n by name; blocks without one are to change nothing.

    Returns:
        X_n as float32 pairs, of rank 0 to r, and ||sum - D_n||_F as a share of ||D_n||_F.
    """
    wanted = {name: _double(given.get(name, _nothing(block))) for name, block in blocks.items()}
    sums = {name: (name, *(one.name for one in block.predecessors)) for name, block in blocks.items()}
    found: dict[str, Pair] = {}
    for name, block in blocks.items():
        if block.predecessors or name not in given:
            rest = _rest(name, [name], wanted, sums, found)
            found[name] = _cut(rest, block.r)
        else:
            found[name] = wanted[name]
    errors = _errors(wanted, sums, found)
    users = _users(sums)
    touched = [name for name in blocks if any(errors[one] > _EXACT for one in users[name])]
    for _ in range(_ROUNDS if touched else 0):
        for name in touched:
            found[name] = _cut(_rest(name, users[name], wanted, sums, found), blocks[name].r)
    pairs = {name: (A.float(), B.float()) for name, (A, B) in found.items()}
    return pairs, _errors(wanted, sums, found) if touched else errors


def _users(sums: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The sums that each block stands in."""
    users: dict[str, list[str]] = defaultdict(list)
    for name, members in sums.items():
        for member in members:
            users[member].append(name)
    return users


def _rest(
    name: str,
    users: Sequence[str],
    wanted: Mapping[str, Pair],
    sums: Mapping[str, Sequence[str]],
    found: Mapping[str, Pair],
) -> Pair:
    """What is left for block `name` in the mean of the sums `users`, exact and of any rank."""
    others = Counter(one for user in users for one in sums[user] if one != name and one in found)
    terms = [(wanted[user], 1 / len(users)) for user in users]
    terms += [(found[one], -count / len(users)) for one, count in others.items()]
    return _stack(terms)


def _errors(
    wanted: Mapping[str, Pair], sums: Mapping[str, Sequence[str]], found: Mapping[str, Pair]
) -> dict[str, float]:
    errors = {}
    for name, members in sums.items():
        missed = _norm(_stack([(wanted[name], -1.0), *((found[one], 1.0) for one in members)]))
        whole = max(_norm(wanted[name]), missed)
        errors[name] = missed / whole if whole and missed > _EXACT * whole else 0.0
    return errors


def _stack(terms: Iterable[tuple[Pair, float]]) -> Pair:
    kept = [(A, factor * B) for (A, B), factor in terms]
    return torch.cat([A for A, _ in kept]), torch.cat([B for _, B in kept], dim=1)


def _cut(pair: Pair, rank: int) -> Pair:
    """The best pair of at most this rank, without directions that are rounding alone."""
    if not len(pair[0]):
        return pair
    A, B, sizes = balanced_pair(*pair)
    kept = int((sizes[:rank] > _EXACT * sizes[0]).sum())
    return _double((A[:kept], B[:, :kept]))


def _norm(pair: Pair) -> float:
    """||B A||_F by orthogonal factors: differences of squares would lose half of the digits."""
    A, B = pair
    if not len(A):
        return 0.0
    return float((torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T).norm())


def _double(pair: Pair) -> Pair:
    return pair[0].double(), pair[1].double()


def _nothing(block: LoRABlock) -> Pair:
    return torch.zeros(0, block.lora_A.shape[1]), torch.zeros(block.lora_B.shape[0], 0)
