"""The link plan: which block follows which, found by running the model once without weights.

A model registers its modules in an order of its own (diffusers registers the U-Net's mid block last), so that the
order of a chain is taken from one forward pass on the `meta` device, never from `named_modules()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from .config import ResLoRAConfig

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


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
        if self.config.residual == "input" and self.config.first_block == "self":
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


def trace_unet(unet: UNet2DConditionModel, config: ResLoRAConfig) -> list[Site]:
    """Sites of a diffusers U-Net in execution order, from one forward pass of a weightless copy.

    Raises:
        ValueError: `target_modules` matches none of the attention projections, or something that isn't one.
    """
    calls: list[tuple[str, int, bool]] = []  # attention, its tokens, reads the text
    with torch.device("meta"):
        twin = type(unet).from_config(unet.config)
    for name, module in twin.named_modules():
        if type(module).__name__ == "Attention":
            module.register_forward_pre_hook(_recorder(name, calls), with_kwargs=True)
    with torch.no_grad():
        twin(**_meta_inputs(unet))
    sites = []
    for name, tokens, reads_text in calls:
        attention = unet.get_submodule(name)
        for projection in _PROJECTIONS:
            path = f"{name}.{projection}"
            if not matches(path, config.target_modules):
                continue
            linear = attention.get_submodule(projection)
            if not isinstance(linear, torch.nn.Linear):
                raise ValueError(
                    f"{path} is a {type(linear).__name__}, not a linear layer. Remove other adapters from the U-Net "
                    "first (unet.unload_lora()), or leave this module out of target_modules."
                )
            sites.append(
                Site(
                    name=path,
                    chain=projection if config.across_attention else f"{name.rsplit('.', 1)[-1]}.{projection}",
                    in_features=linear.in_features,
                    out_features=linear.out_features,
                    tokens=tokens,
                    input_name=_input_name(name, projection, reads_text),
                    reads_text=reads_text and projection in ("to_k", "to_v"),
                )
            )
    _check_targets(unet, config, sites)
    return sites


def _recorder(name: str, calls: list[tuple[str, int, bool]]) -> Any:
    def record(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        text = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        tokens = hidden.shape[1] if hidden.ndim == 3 else hidden.shape[2] * hidden.shape[3]
        if any(seen == name for seen, _, _ in calls):
            raise ValueError(f"{name} runs twice in one forward pass, so that its predecessor isn't defined.")
        calls.append((name, tokens, text is not None))

    return record


def _input_name(attention: str, projection: str, reads_text: bool) -> str:
    if projection == "to_out.0":
        return f"{attention}:heads"
    if reads_text and projection in ("to_k", "to_v"):
        return "encoder_hidden_states"
    return f"{attention}:hidden_states"


def _meta_inputs(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Inputs of one picture of the model's own size, without data."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    text_size = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    if not isinstance(text_size, int):
        text_size = text_size[0]
    inputs: dict[str, Any] = {
        "sample": torch.empty(1, unet.config.in_channels, height, width, device="meta"),
        "timestep": torch.zeros(1, dtype=torch.long, device="meta"),
        "encoder_hidden_states": torch.empty(1, 77, text_size, device="meta"),
    }
    if unet.config.addition_embed_type == "text_time":  # SDXL: a pooled text embedding and six numbers of size
        ids = 6 * unet.config.addition_time_embed_dim
        pooled = unet.config.projection_class_embeddings_input_dim - ids
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled, device="meta"),
            "time_ids": torch.empty(1, 6, device="meta"),
        }
    return inputs


def _check_targets(unet: torch.nn.Module, config: ResLoRAConfig, sites: Sequence[Site]) -> None:
    """Every target has to match something, and whatever matches has to be an attention projection."""
    found = {site.name for site in sites}
    stray = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and matches(name, config.target_modules) and name not in found
    ]
    if stray:
        raise ValueError(
            f"target_modules also matches {stray[0]} ({len(stray)} such modules), which is no attention projection. "
            f"ResLoRA for U-Nets takes {', '.join(_PROJECTIONS)}."
        )
    targets = [config.target_modules] if isinstance(config.target_modules, str) else list(config.target_modules)
    for target in targets:
        rule = target if isinstance(config.target_modules, str) else (target,)
        if not any(matches(name, rule) for name in found):
            raise ValueError(
                f"target_modules has {target!r}, which matches no attention projection of this U-Net. "
                f"It may be {', '.join(_PROJECTIONS)}, or the end of a path such as 'attn1.to_q'."
            )
