"""The link plan: which block follows which, and the rule that says so (appendix C of the paper)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config import ResLoRAConfig


@dataclass(frozen=True)
class Site:
    """One linear that gets a block, where it runs and what it reads."""

    name: str
    """Path of the linear in the model."""

    chain: str
    """Blocks can follow one another only inside one chain, for example `attn1.to_q`."""

    in_features: int
    out_features: int

    tokens: int
    """Token grid of the attention that the linear belongs to (the number of its queries)."""

    input_name: str
    """Name of the tensor that the linear reads."""

    reads_text: bool = False
    """Whether that tensor is the text's, whose tokens no picture's can be added to."""

    @property
    def size(self) -> tuple[int, int, int, bool]:
        """What has to agree for a residual path."""
        return self.in_features, self.out_features, self.tokens, self.reads_text


@dataclass(frozen=True)
class Link:
    """A site with its predecessors (nearest first), or the reason that it has none."""

    site: Site
    predecessors: tuple[str, ...]
    reason: str


class LinkPlan:
    """The links of all blocks, in the order in which the model runs them. Print it to read it."""

    def __init__(self, links: Sequence[Link], config: ResLoRAConfig) -> None:
        self.links = tuple(links)
        self.config = config

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def __len__(self) -> int:
        return len(self.links)

    def chains(self) -> list[list[str]]:
        """Names of the blocks that a path joins, chain by chain; a block without any path is a chain of one."""
        chains: list[list[str]] = []
        place: dict[str, list[str]] = {}
        for link in self.links:
            chain = place[link.predecessors[0]] if link.predecessors else []
            if not chain:
                chains.append(chain)
            chain.append(link.site.name)
            place[link.site.name] = chain
        return chains

    def readers(self) -> dict[str, int]:
        """How many later blocks read what a block leaves on the tape, by its name.

        Eq. 4 with all predecessors reads running sums: the nearest predecessor's stands for all.
        """
        sums = self.config.residual == "middle" and self.config.pre_num == -1
        read = Counter(name for link in self.links for name in (link.predecessors[:1] if sums else link.predecessors))
        return {link.site.name: read[link.site.name] for link in self.links}

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, for JSON: one entry a block."""
        return [
            {**asdict(link.site), "predecessors": list(link.predecessors), "reason": link.reason} for link in self.links
        ]

    def summary(self) -> str:
        """One line: how many blocks, how many with a path, and what that means for Eq. 2."""
        linked = sum(bool(link.predecessors) for link in self.links)
        starts = len(self.links) - linked
        text = f"{len(self.links)} blocks, {linked} with a residual path, {starts} that start a chain"
        if self.config.doubles_start:
            text += " and run as LoRA at twice the scale (first_block='self')"
        return text

    def __str__(self) -> str:
        """Chains by their place, `a -> b` for a path; projections with equal chains together."""
        together: dict[tuple[str, ...], list[str]] = {}
        sites = {link.site.name: link.site for link in self.links}
        for chain in self.chains():
            places = tuple(name.removesuffix(sites[name].chain).rstrip(".") for name in chain)
            together.setdefault(places, []).append(sites[chain[0]].chain)
        rows = [f"{self.config.residual}: {self.summary()}"]
        for places, chains in together.items():
            shown = places if len(places) <= 3 else (places[0], f"... {len(places) - 2} more ...", places[-1])
            rows.append(f"  {', '.join(chains)}")
            rows.append(f"    {' -> '.join(shown)}")
        return "\n".join(rows)


def link_sites(sites: Sequence[Site], config: ResLoRAConfig) -> LinkPlan:
    """Joins the sites of every chain by the rule of appendix C, or by `link='same_size'`.

    Args:
        sites: in execution order.
    """
    before: dict[str, list[Link]] = {}  # chain -> its links so far
    links = []
    for site in sites:
        earlier = before.setdefault(site.chain, [])
        link = _link(site, earlier, config)
        earlier.append(link)
        links.append(link)
    return LinkPlan(links, config)


def _link(site: Site, earlier: Sequence[Link], config: ResLoRAConfig) -> Link:
    if config.residual == "none":
        return Link(site, (), "residual 'none' has no paths")
    if not earlier:
        return Link(site, (), f"the first {site.chain}")
    candidates = earlier[-1:] if config.link == "neighbour" else earlier[::-1]
    source = next((link for link in candidates if link.site.size == site.size), None)
    if source is None:
        last = earlier[-1].site
        which = "the block before" if config.link == "neighbour" else "no earlier block has this size; the last one"
        return Link(site, (), f"{which}, {last.name}, is {last.out_features}x{last.in_features}, {last.tokens} tokens")
    names = (source.site.name, *source.predecessors)
    assert config.pre_num is not None
    return Link(site, names if config.pre_num == -1 else names[: config.pre_num], "")


def matches(name: str, target_modules: tuple[str, ...] | str) -> bool:
    """Whether a module path is a target: by whole last parts, or by one regular expression for the whole path."""
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, name) is not None
    return any(name == target or name.endswith("." + target) for target in target_modules)


def unmatched(names: Iterable[str], target_modules: tuple[str, ...] | str) -> str | None:
    """The first target that none of the names matches."""
    rules = [target_modules] if isinstance(target_modules, str) else [(target,) for target in target_modules]
    known = list(names)
    left = (rule for rule in rules if not any(matches(name, rule) for name in known))
    first = next(left, None)
    return first[0] if isinstance(first, tuple) else first
