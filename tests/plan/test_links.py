"""The rule that links blocks, on sites made by hand."""

import pytest

from reslora_sd import ResLoRAConfig
from reslora_sd.plan.links import Link, Site, link_sites, matches


def site(name, size=8, chain="q", tokens=4, reads_text=False):
    return Site(name, chain, size, size, tokens, f"{name}:x", reads_text)


def predecessors(sites, **settings):
    plan = link_sites(sites, ResLoRAConfig(**{"residual": "input", **settings}))
    return {link.site.name: link.predecessors for link in plan}


def test_neighbours_of_one_size_are_linked_chain_by_chain():
    sites = [site("0.q"), site("0.k", chain="k"), site("1.q"), site("1.k", chain="k"), site("2.q", 9), site("3.q", 9)]
    assert predecessors(sites) == {
        "0.q": (),
        "0.k": (),
        "1.q": ("0.q",),
        "1.k": ("0.k",),
        "2.q": (),
        "3.q": ("2.q",),
    }


@pytest.mark.parametrize(
    "other",
    [
        Site("1.q", "q", 9, 8, 4, "x"),
        Site("1.q", "q", 8, 9, 4, "x"),
        Site("1.q", "q", 8, 8, 5, "x"),
        Site("1.q", "q", 8, 8, 4, "x", reads_text=True),
    ],
    ids=["in", "out", "tokens", "text"],
)
def test_every_part_of_the_size_has_to_agree(other):
    assert predecessors([site("0.q"), other])["1.q"] == ()
    assert predecessors([site("0.q"), site("1.q")])["1.q"] == ("0.q",)


def test_the_latest_block_of_the_same_size_is_found_behind_others():
    sites = [site("0"), site("1"), site("2", 9), site("3")]
    assert predecessors(sites, link="neighbour")["3"] == ()
    assert predecessors(sites, link="same_size")["3"] == ("1",)


@pytest.mark.parametrize(("pre_num", "count"), [(1, 1), (2, 2), (3, 3), (4, 4), (-1, 5)])
def test_pre_num_counts_predecessors_nearest_first(pre_num, count):
    sites = [site(str(number)) for number in range(6)]
    found = predecessors(sites, residual="block", pre_num=pre_num)["5"]
    assert found == tuple("43210"[:count])


def test_the_reasons_name_what_stands_in_the_way():
    wide = Site("1", "q", 9, 10, 5, "x")
    config = ResLoRAConfig(residual="input")
    first, second = link_sites([site("0"), wide], config)
    assert first == Link(site("0"), (), "the first q")
    assert second.reason == "the block before, 0, is 8x8, 4 tokens"
    reached = link_sites([wide, site("2")], ResLoRAConfig(residual="input", link="same_size")).links[1]
    assert reached.reason == "no earlier block has this size; the last one, 1, is 10x9, 5 tokens"
    linked = link_sites([site("0"), site("1")], config).links[1]
    assert linked.reason == "" and linked.predecessors == ("0",)
    alone = link_sites([site("0"), site("1")], ResLoRAConfig(residual="none"))
    assert {link.reason for link in alone} == {"residual 'none' has no paths"}


def test_the_last_of_several_earlier_blocks_is_the_one_that_a_reason_names():
    sites = [site("0"), site("1", 9), site("2", 7)]
    for link, words in (("neighbour", "the block before, 1, is 9x9"), ("same_size", "the last one, 1, is 9x9")):
        assert words in link_sites(sites, ResLoRAConfig(residual="input", link=link)).links[2].reason


def test_a_plan_is_read_as_chains_as_a_list_and_as_text():
    sites = [site("a.0.q"), site("a.0.k", chain="k"), site("a.1.q"), site("a.1.k", chain="k"), site("b.q", 9)]
    plan = link_sites(sites, ResLoRAConfig(residual="input"))
    assert len(plan) == 5
    assert plan.chains() == [["a.0.q", "a.1.q"], ["a.0.k", "a.1.k"], ["b.q"]]
    rows = plan.to_list()
    assert rows[2] == {
        "name": "a.1.q",
        "chain": "q",
        "in_features": 8,
        "out_features": 8,
        "tokens": 4,
        "input_name": "a.1.q:x",
        "reads_text": False,
        "predecessors": ["a.0.q"],
        "reason": "",
    }
    assert str(plan).splitlines() == [
        "input: 5 blocks, 2 with a residual path, 3 that start a chain and run as LoRA at twice the scale "
        "(first_block='self')",
        "  q, k",
        "    a.0 -> a.1",
        "  q",
        "    b",
    ]


def test_a_chain_of_three_is_shown_whole_and_a_longer_one_by_its_ends():
    for count, shown in ((3, "0 -> 1 -> 2"), (4, "0 -> ... 2 more ... -> 3"), (5, "0 -> ... 3 more ... -> 4")):
        sites = [site(f"{number}.q") for number in range(count)]
        assert str(link_sites(sites, ResLoRAConfig(residual="middle"))).splitlines()[-1] == f"    {shown}"


def test_a_chain_with_gaps_keeps_blocks_that_skip_others_together():
    sites = [site("0"), site("1", 9), site("2"), site("3", 9)]
    plan = link_sites(sites, ResLoRAConfig(residual="middle", link="same_size"))
    assert plan.chains() == [["0", "2"], ["1", "3"]]


@pytest.mark.parametrize(
    ("residual", "first_block", "twice"),
    [
        ("input", "self", True),
        ("input", "none", False),
        ("middle", "self", False),
        ("none", "self", False),
        ("frozen", "self", True),
    ],
)
def test_only_eq_2_with_self_doubles_the_start_of_a_chain(residual, first_block, twice):
    plan = link_sites([site("0"), site("1")], ResLoRAConfig(residual=residual, first_block=first_block))
    assert ("twice the scale" in plan.summary()) is twice


def test_readers_are_those_who_name_a_block_but_running_sums_have_one():
    sites = [site(str(number)) for number in range(4)]
    for residual, pre_num, expected in (
        ("middle", 2, [2, 2, 1, 0]),
        ("middle", -1, [1, 1, 1, 0]),
        ("block", -1, [3, 2, 1, 0]),
    ):
        config = ResLoRAConfig(residual=residual, pre_num=pre_num)
        assert list(link_sites(sites, config).readers().values()) == expected


def test_a_name_matches_by_its_end_or_by_a_rule_for_the_whole():
    assert matches("q", ("k", "q")) and matches("a.q", ("k", "q")) and not matches("a.v", ("k", "q"))
    assert not matches("aq", ("q",)) and not matches("q.a", ("q",)) and not matches("q", ("a.q",))
    assert matches("a.q", r"a\.[qk]") and not matches("b.a.q", r"a\.[qk]") and not matches("a.q.b", r"a\.[qk]")


def test_sites_and_links_are_values():
    link = Link(site("0"), (), "")
    assert len({site("0"), site("0"), site("1")}) == 2 and len({link, Link(site("0"), (), "")}) == 1
