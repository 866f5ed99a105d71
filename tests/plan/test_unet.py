import functools
from collections import Counter

import pytest
import torch

from reslora_sd import ResLoRAConfig
from reslora_sd.plan.links import link_sites, matches
from reslora_sd.plan.targets import expand_targets
from reslora_sd.plan.unet import trace_unet
from tests.unets import SD1, SD2, SDXL, SMALL, small_unet, weightless

FAMILIES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}


@functools.cache
def sites_of(family, across_attention):
    """Traced once: many tests look at the same plans."""
    return trace_unet(weightless(FAMILIES[family]), ResLoRAConfig(across_attention=across_attention))


def plan_of(config, **settings):
    wanted = ResLoRAConfig(**{"residual": "input", **settings})
    family = next(name for name, known in FAMILIES.items() if known is config)
    return link_sites(sites_of(family, wanted.across_attention), wanted)


def chains_of(plan, attention, projection):
    """Where a chain's blocks lie, by the first two parts of their path, chain by chain."""
    ending = f"{attention}.{projection}"
    return [
        [".".join(name.split(".")[:2]).removesuffix(".attentions") for name in chain]
        for chain in plan.chains()
        if chain[0].endswith(ending)
    ]


# By hand from the architecture: two transformer blocks on the way down at each size, one in the middle, three on the
# way up. The middle of SD 1.x and 2.x works on a quarter of its neighbours' tokens, so that it stands alone.
SD_PLAN = [
    ["down_blocks.0"] * 2,
    ["down_blocks.1"] * 2,
    ["down_blocks.2"] * 2,
    ["mid_block"],
    ["up_blocks.1"] * 3,
    ["up_blocks.2"] * 3,
    ["up_blocks.3"] * 3,
]
# SDXL: 2 and 10 transformer layers in each of 2 (down) or 3 (up) attentions; its last down block, its middle and its
# first up block have the same size, so that 20 + 10 + 30 layers make one chain.
SDXL_PLAN = [
    ["down_blocks.1"] * 4,
    ["down_blocks.2"] * 20 + ["mid_block"] * 10 + ["up_blocks.0"] * 30,
    ["up_blocks.1"] * 6,
]


@pytest.mark.parametrize(("config", "expected"), [(SD1, SD_PLAN), (SD2, SD_PLAN), (SDXL, SDXL_PLAN)])
@pytest.mark.parametrize("attention", ["attn1", "attn2"])
@pytest.mark.parametrize("projection", ["to_q", "to_k", "to_v", "to_out.0"])
def test_neighbours_of_published_unets(config, expected, attention, projection):
    assert chains_of(plan_of(config), attention, projection) == expected


@pytest.mark.parametrize(("config", "blocks", "linked"), [(SD1, 128, 72), (SD2, 128, 72), (SDXL, 560, 536)])
def test_how_many_blocks_have_a_path(config, blocks, linked):
    plan = plan_of(config)
    assert len(plan) == blocks
    assert sum(bool(link.predecessors) for link in plan) == linked
    assert f"{blocks} blocks, {linked} with a residual path" in plan.summary()


def test_same_size_reaches_over_other_sizes_as_skip_connections_do():
    plan = plan_of(SD1, link="same_size")
    assert chains_of(plan, "attn1", "to_q") == [
        ["down_blocks.0"] * 2 + ["up_blocks.3"] * 3,
        ["down_blocks.1"] * 2 + ["up_blocks.2"] * 3,
        ["down_blocks.2"] * 2 + ["up_blocks.1"] * 3,
        ["mid_block"],
    ]


def test_the_order_is_that_of_execution_and_not_of_registration():
    unet = weightless(SD1)
    order = [site.name for site in trace_unet(unet, ResLoRAConfig())]
    registered = [name for name, _ in unet.named_modules() if name in set(order)]
    assert order != registered
    first_up = next(i for i, name in enumerate(order) if name.startswith("up"))
    last_mid = max(i for i, name in enumerate(order) if name.startswith("mid"))
    assert last_mid < first_up


def test_across_attention_alternates_where_sizes_agree_and_never_mixes_text_with_pictures():
    plan = plan_of(SD1, across_attention=True)
    by_name = {link.site.name: link for link in plan}
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert by_name[f"{block}.attn2.to_q"].predecessors == (f"{block}.attn1.to_q",)
    assert not by_name[f"{block}.attn2.to_k"].predecessors
    width = SMALL["block_out_channels"][0]  # a text as wide as the picture's tokens
    config = ResLoRAConfig(across_attention=True)
    same_width = weightless({**SMALL, "cross_attention_dim": width})
    for link in link_sites(trace_unet(same_width, config), config):
        if link.site.name.endswith("attn2.to_k"):
            assert not link.predecessors


@pytest.mark.parametrize(("pre_num", "longest"), [(1, 1), (2, 2), (4, 4), (-1, 59)])
def test_pre_num_limits_the_predecessors(pre_num, longest):
    plan = plan_of(SDXL, residual="middle", pre_num=pre_num)
    assert max(len(link.predecessors) for link in plan) == longest


def test_every_block_without_a_path_says_why():
    reasons = Counter(bool(link.reason) for link in plan_of(SD1) if not link.predecessors)
    assert reasons == {True: 56}
    alone = next(link for link in plan_of(SD1) if link.site.name.startswith("mid_block"))
    assert "1280x1280, 256 tokens" in alone.reason
    assert "no paths" in plan_of(SD1, residual="none").links[5].reason


def test_targets_match_whole_parts_of_a_path_only():
    assert matches("a.attn1.to_q", ("to_q",)) and matches("to_q", ("to_q",))
    assert not matches("a.add_to_q", ("to_q",)) and not matches("a.to_q.x", ("to_q",))
    assert matches("a.attn1.to_q", r".*attn1\.to_[qv]") and not matches("a.attn2.to_q", r".*attn1\.to_[qv]")


def test_targets_choose_attention_and_projection():
    sites = trace_unet(weightless(SD1), ResLoRAConfig(target_modules=("attn2.to_k", "attn2.to_v")))
    assert len(sites) == 32 and all(".attn2." in site.name for site in sites)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("to_q", "query"), "'query'"),
        ("attn1", "'attn1'"),
        (("time_emb_proj",), "down_blocks.0.resnets.0.time_emb_proj .* is linear but no layer of a transformer"),
        (("to_q", "conv1"), "conv1 .* is a convolution of 3x3 .* ResLoRA for U-Nets takes .*to_q.*Leave it out"),
    ],
)
def test_targets_that_match_nothing_are_an_error(targets, words):
    with pytest.raises(ValueError, match=words):
        trace_unet(weightless(SD1), ResLoRAConfig(target_modules=targets))


# By hand: 16 transformers of 1 block, or 11 of 70 blocks in all; a chain of the plan above starts once.
@pytest.mark.parametrize(
    ("config", "blocks", "linked"), [(SD1, 192, 108), pytest.param(SDXL, 722, 686, marks=pytest.mark.slow)]
)
def test_feed_forward_layers_and_projections_follow_the_same_sizes(config, blocks, linked):
    targets = expand_targets(["attention", "ff", "proj_in", "proj_out"])
    assert targets == expand_targets(["kohya"]) and len(set(targets)) == 8
    settings = ResLoRAConfig(target_modules=targets)
    plan = link_sites(trace_unet(weightless(config), settings), settings)
    assert (len(plan), sum(bool(link.predecessors) for link in plan)) == (blocks, linked)
    for end in ("0.proj", "2"):
        assert chains_of(plan, "ff.net", end) == (SDXL_PLAN if config is SDXL else SD_PLAN)
    projections = [len(chain) for chain in plan.chains() if chain[0].endswith("proj_out")]
    assert projections == ([2, 6, 3] if config is SDXL else [2, 2, 2, 1, 3, 3, 3])
    assert all(link.predecessors == () or link.site.chain in link.predecessors[0] for link in plan)


def test_tracing_needs_no_memory_and_leaves_the_model_alone():
    unet = small_unet()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    trace_unet(unet, ResLoRAConfig())
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert not unet._forward_pre_hooks
    assert all(not module._forward_pre_hooks for module in unet.modules())


def test_an_attention_over_a_picture_has_as_many_tokens_as_pixels():
    """Blocks without a transformer hand the picture itself to their attention."""
    unet = weightless(
        {
            **SMALL,
            "sample_size": (8, 12),
            "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        }
    )
    tokens = {site.name: site.tokens for site in trace_unet(unet, ResLoRAConfig(target_modules=("to_q",)))}
    assert tokens["down_blocks.0.attentions.0.to_q"] == tokens["up_blocks.1.attentions.2.to_q"] == 96
    assert tokens["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"] == 24
