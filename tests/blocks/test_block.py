"""Blocks as a link plan makes them."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from reslora_sd import ResLoRAConfig
from reslora_sd.blocks.block import LoRABlock, make_blocks
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.plan.links import Site, link_sites

SITES = [Site(f"{i}.q", "q", 6, 7, 5, f"{i}:x") for i in range(4)]


def test_a_block_is_complete_when_it_is_made():
    config = ResLoRAConfig(r=3, lora_alpha=6, lora_dropout=0.25)
    before = LoRABlock(SITES[0], config)
    block = LoRABlock(SITES[1], config, (before,), readers=2)
    assert (block.name, block.input_name, block.r, block.scaling, block.dropout) == ("1.q", "1:x", 3, 2.0, 0.25)
    assert block.predecessors == (before,) and block.readers == 2
    assert before.predecessors == () and before.readers == 0
    assert block.lora_A.shape == (3, 6) and block.lora_B.shape == (7, 3)
    assert block.extra_repr() == "in=6, out=7, r=3, scaling=2"


def test_predecessors_are_no_children_so_that_each_parameter_has_one_name():
    blocks = make_blocks(link_sites(SITES, ResLoRAConfig(residual="block", r=3)))
    assert list(blocks) == [site.name for site in SITES]
    assert [one.name for one in blocks["3.q"].predecessors] == ["2.q", "1.q", "0.q"]
    assert set(blocks["3.q"].state_dict()) == {"lora_A", "lora_B"}


@pytest.mark.parametrize(
    ("residual", "pre_num", "readers"),
    [
        ("none", None, [0, 0, 0, 0]),
        ("input", None, [1, 1, 1, 0]),
        ("middle", 1, [1, 1, 1, 0]),
        ("middle", 2, [2, 2, 1, 0]),
        ("middle", 4, [3, 2, 1, 0]),
        ("middle", -1, [1, 1, 1, 0]),  # running sums: the nearest one's stands for all
    ],
)
def test_each_block_knows_how_many_will_read_it(residual, pre_num, readers):
    blocks = make_blocks(link_sites(SITES, ResLoRAConfig(residual=residual, r=3, pre_num=pre_num)))
    assert [block.readers for block in blocks.values()] == readers


def test_a_starts_uniform_in_the_range_of_a_linear_and_b_at_zero():
    torch.manual_seed(0)
    block = LoRABlock(Site("q", "q", 400, 9, 1, "x"), ResLoRAConfig(r=50))
    bound = 1 / math.sqrt(400)
    assert block.lora_A.abs().max() <= bound and block.lora_A.abs().max() > 0.99 * bound
    assert float(block.lora_A.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not block.lora_B.any()
    assert block.lora_A.dtype == block.lora_B.dtype == torch.float32


def test_a_is_drawn_in_the_order_of_the_plan_from_torchs_generator():
    torch.manual_seed(5)
    together = make_blocks(link_sites(SITES, ResLoRAConfig(residual="middle", r=3)))
    torch.manual_seed(5)
    for site in SITES:
        assert torch.equal(LoRABlock(site, ResLoRAConfig(r=3)).lora_A, together[site.name].lora_A)


def test_input_is_shared_only_where_all_predecessors_read_the_same():
    config = ResLoRAConfig(r=3)
    text = [LoRABlock(Site(f"{i}.k", "k", 6, 7, 5, "text"), config) for i in range(2)]
    other = LoRABlock(SITES[0], config)
    assert LoRABlock(Site("2.k", "k", 6, 7, 5, "text"), config, tuple(text)).shares_input
    assert not LoRABlock(Site("2.k", "k", 6, 7, 5, "text"), config, (text[0], other)).shares_input


def test_dropout_acts_in_train_mode_only_and_scales_what_stays():
    block = LoRABlock(SITES[0], ResLoRAConfig(r=3, lora_dropout=0.75))
    x = torch.ones(1000)
    assert set(block.drop(x).tolist()) == {0.0, 4.0}
    assert block.eval().drop(x) is x
    assert LoRABlock(SITES[0], ResLoRAConfig(r=3)).drop(x) is x


def test_a_plain_block_gives_its_weight_and_the_weights_norm():
    torch.manual_seed(0)
    A, B = torch.randn(3, 6), torch.randn(7, 3)
    block = PlainBlock(A, B, -1.5)
    assert block.r == 3
    torch.testing.assert_close(block.delta_weight(), -1.5 * torch.einsum("or,ri->oi", B, A))
    assert block.norm() == pytest.approx(float((1.5 * B.double() @ A.double()).norm()), rel=1e-9)
    assert PlainBlock(A, torch.zeros(7, 3), 1.0).norm() == 0


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_plain_block_of_a_convolution_is_two_convolutions(kernel):
    torch.manual_seed(0)
    A, B, x = torch.randn(3, 6, kernel, kernel), torch.randn(7, 3, 1, 1), torch.randn(2, 6, 5, 5)
    block = PlainBlock(A, B, -1.5)
    assert block.r == 3 and block.shape == (7, 6, kernel, kernel)
    expected = -1.5 * F.conv2d(F.conv2d(x, A, padding="same"), B)
    torch.testing.assert_close(F.conv2d(x, block.delta_weight(), padding="same"), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(PlainBlock(A, B.flatten(1), -1.5).delta_weight(), block.delta_weight())
    assert block.norm() == pytest.approx(float(block.delta_weight().double().norm()), rel=1e-5)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_cut_is_the_best_of_its_rank_and_never_larger(kernel):
    torch.manual_seed(0)
    block = PlainBlock(torch.randn(4, 6, *kernel), torch.randn(7, 4, *((1, 1) if kernel else ())), -1.5)
    whole = block.delta_weight().flatten(1).double()
    U, S, Vh = torch.linalg.svd(whole, full_matrices=False)
    cut, error = block.cut(2)
    assert cut.r == 2 and cut.shape == block.shape and cut.scaling == block.scaling
    best = U[:, :2] * S[:2] @ Vh[:2]
    torch.testing.assert_close(cut.delta_weight().flatten(1).double(), best, rtol=1e-4, atol=1e-5)
    assert error == pytest.approx(float((best - whole).norm() / whole.norm()), rel=1e-5)
    for rank in (4, 9):
        same, error = block.cut(rank)
        assert error == 0.0 and torch.equal(same.lora_A, block.lora_A) and torch.equal(same.lora_B, block.lora_B)
    assert PlainBlock(block.lora_A, torch.zeros(7, 4), 1.0).cut(1)[1] == 0.0


def test_a_plain_block_does_not_change():
    block = PlainBlock(torch.ones(1, 2), torch.ones(3, 1), 1.0)
    for field in dataclasses.fields(block):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(block, field.name, 2.0)
