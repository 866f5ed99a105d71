"""Merging: exact where theory says so, not exact elsewhere, and least squares the best of its rank."""

import copy
import functools

import pytest
import torch

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.runs.names import APPROACHES
from tests.unets import SMALL, inputs_for, move_away_from_zero, small_unet

PAIRS = [(residual, approach) for residual, kinds in APPROACHES.items() for approach in kinds]


def adapted(residual, **settings):
    unet = small_unet().eval()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4, **settings))
    move_away_from_zero(adapter, std=0.1)
    batches = [inputs_for(unet, seed=seed) for seed in range(20, 30)]
    return unet, adapter, collect_statistics(adapter, batches, lambda batch: unet(**batch))


def output(unet, seed=1):
    with torch.no_grad():
        return unet(**inputs_for(unet, seed=seed)).sample


def drift(unet, adapter, plain):
    """||merged - unmerged|| / ||unmerged - base|| on inputs that the statistics haven't seen."""
    unmerged = output(unet)
    with adapter.disabled():
        base = output(unet)
    merged = small_unet().eval()
    plain.fuse_into(merged)
    return float((output(merged) - unmerged).norm() / (unmerged - base).norm())


@pytest.mark.parametrize(
    ("residual", "pre_num"), [("none", None), ("block", 1), ("block", 2), ("block", 4), ("block", -1)]
)
def test_exact_is_exact(residual, pre_num):
    unet, adapter, _ = adapted(residual, pre_num=pre_num)
    assert drift(unet, adapter, merge(adapter)) < 1e-5


@pytest.mark.parametrize("approach", ["none", "input", "weights", "least_squares"])
@pytest.mark.parametrize("residual", ["input", "middle"])
def test_no_merge_of_unrelated_inputs_is_exact(residual, approach):
    unet, adapter, statistics = adapted(residual)
    assert drift(unet, adapter, merge(adapter, approach, statistics)) > 1e-3


@pytest.mark.parametrize("residual", ["input", "middle"])
def test_least_squares_is_nearer_than_every_approach_of_the_paper(residual):
    unet, adapter, statistics = adapted(residual)
    found = {one: drift(unet, adapter, merge(adapter, one, statistics)) for one in APPROACHES[residual]}
    assert found["least_squares"] < min(found["input"], found["weights"], found["none"])


@pytest.mark.parametrize(("residual", "approach"), PAIRS)
def test_merging_twice_gives_the_same_and_changes_nothing(residual, approach):
    unet, adapter, statistics = adapted(residual)
    before, state = output(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    one, two = merge(adapter, approach, statistics), merge(adapter, approach, statistics)
    for name in one.blocks:
        assert torch.equal(one.blocks[name].lora_A, two.blocks[name].lora_A)
        assert torch.equal(one.blocks[name].lora_B, two.blocks[name].lora_B)
    assert torch.equal(output(unet), before)
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize(("residual", "approach"), PAIRS)
def test_fusing_a_merge_leaves_nothing_of_the_adapter(residual, approach):
    unet, adapter, statistics = adapted(residual)
    keys = set(small_unet().state_dict())
    plain = merge(adapter, approach, statistics)
    adapter.remove()
    assert plain.fuse_into(unet) == 0.0
    assert set(unet.state_dict()) == keys
    assert not any("lora" in name for name, _ in unet.named_modules())


@pytest.mark.parametrize("residual", ["input", "middle"])
def test_text_projections_merge_exactly_by_least_squares(residual):
    """Cross-attention's k and v all read the text, so that x_{n-1} is x_n, whatever the text."""
    unet, adapter, statistics = adapted(residual, target_modules=("attn2.to_k", "attn2.to_v"))
    assert drift(unet, adapter, merge(adapter, "least_squares", statistics)) < 1e-5
    reports = merge(adapter, "least_squares", statistics).reports.values()
    assert all(report.error is not None and report.error < 1e-6 for report in reports)


@pytest.mark.parametrize("first_block", ["self", "none"])
def test_alpha_of_a_chains_start_is_the_equations(first_block):
    _, adapter, statistics = adapted("input", first_block=first_block)
    for approach in ("input", "weights", "least_squares"):
        plain = merge(adapter, approach, statistics)
        for link in adapter.link_plan():
            if not link.predecessors:
                block, own = plain.blocks[link.site.name], adapter.blocks[link.site.name]
                factor = 2 if first_block == "self" else 1
                torch.testing.assert_close(block.lora_A, factor * own.lora_A.detach())


def rows_of(adapter, unet, seed):
    """{site: its x (tokens, in), float64} of one forward pass."""
    found = {}

    def listen(inputs):
        found.update({name: value.flatten(0, 1).double() for name, value in inputs.items()})

    from reslora_sd.blocks.tape import listening

    with listening(listen):
        unet(**inputs_for(unet, seed=seed))
    return found


def extra_of(adapter, name, rows):
    block = adapter.blocks[name]
    if adapter.config.residual == "input":
        return rows[block.predecessors[0].name] @ block.lora_A.detach().double().T
    return sum(rows[one.name] @ one.lora_A.detach().double().T for one in block.predecessors)


@pytest.mark.parametrize("residual", ["input", "middle"])
def test_least_squares_is_the_solution_of_an_independent_solver(residual):
    unet = small_unet().eval()
    adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
    move_away_from_zero(adapter, std=0.1)
    seeds = range(20, 30)
    statistics = collect_statistics(adapter, seeds, lambda seed: unet(**inputs_for(unet, seed=seed)))
    plain = merge(adapter, "least_squares", statistics, ridge=1e-2)
    every = [rows_of(adapter, unet, seed) for seed in seeds]
    rows = {name: torch.cat([one[name] for one in every]) for name in every[0]}
    name = "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q"
    x, e = rows[name], extra_of(adapter, name, rows)
    # a ridge is further rows of the regression that ask for nothing
    ridge = (1e-2 * x.square().sum() / x.shape[1]).sqrt() * torch.eye(x.shape[1], dtype=x.dtype)
    change = torch.linalg.lstsq(torch.cat([x, ridge]), torch.cat([e, torch.zeros_like(e[: len(ridge)])])).solution.T
    expected = adapter.blocks[name].lora_A.detach().double() + change
    torch.testing.assert_close(plain.blocks[name].lora_A.double(), expected, rtol=1e-3, atol=1e-3)

    B = adapter.blocks[name].lora_B.detach().double()
    whole = (x @ adapter.blocks[name].lora_A.detach().double().T + e) @ B.T
    missed = whole - x @ plain.blocks[name].lora_A.double().T @ B.T
    assert plain.reports[name].error == pytest.approx(float(missed.norm() / whole.norm()), rel=1e-3)


def test_without_a_ridge_a_singular_moment_is_solved_with_the_least_norm():
    """A LayerNorm's outputs have mean zero, so that E[x x^T] lacks a direction."""
    unet, adapter, statistics = adapted("middle")
    plain = merge(adapter, "least_squares", statistics, ridge=0.0)
    assert max(float(block.lora_A.abs().max()) for block in plain.blocks.values()) < 10
    assert drift(unet, adapter, plain) < drift(unet, adapter, merge(adapter, "none"))


def test_alphas_are_the_papers_ratios():
    """Eqs. 9, 11, 12 and 13 on norms that are worked out here."""
    names = [f"up_blocks.1.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in range(3)]
    for residual in ("input", "middle"):
        unet = small_unet().eval()
        adapter = add_reslora(unet, ResLoRAConfig(residual=residual, r=4))
        move_away_from_zero(adapter, std=0.1)
        statistics = collect_statistics(adapter, [40, 41], functools.partial(output, unet))
        every = [rows_of(adapter, unet, seed) for seed in (40, 41)]
        x_norms = [sum(float(rows[name].norm()) for rows in every) / 2 for name in names]
        A = [adapter.blocks[name].lora_A.detach().double() for name in names]
        B = [adapter.blocks[name].lora_B.detach().double() for name in names]
        W = [unet.get_submodule(name).weight.double() for name in names]
        s = adapter.config.scaling
        by_input = merge(adapter, "input", statistics).reports[names[2]].alpha
        by_weights = merge(adapter, "weights", statistics)
        if residual == "input":
            assert by_input == pytest.approx(x_norms[1] / x_norms[2], rel=1e-5)
            first = (W[0] + s * 2 * B[0] @ A[0]).norm()  # the chain's start: alpha 1
            second = (W[1] + s * 2 * B[1] @ A[1]).norm()  # there is no n-2: alpha 1
            assert by_weights.reports[names[2]].alpha == pytest.approx(float(first / second), rel=1e-5)
        else:
            f = [sum(float((rows[n] @ a.T).norm()) for rows in every) / 2 for n, a in zip(names, A, strict=True)]
            assert by_input == pytest.approx((f[1] + f[0]) / f[2], rel=1e-5)
            first = (W[0] + s * B[0] @ A[0]).norm()
            second = (W[1] + s * B[1] @ (A[1] + A[0])).norm()
            alphas = by_weights.reports[names[2]].alphas
            assert alphas == pytest.approx((float(first / second), 1.0), rel=1e-5)
            expected = A[2] + alphas[0] * A[1] + alphas[1] * A[0]
            torch.testing.assert_close(by_weights.blocks[names[2]].lora_A.double(), expected, rtol=1e-5, atol=1e-6)
            literal = merge(adapter, "weights", statistics, alpha_from="inputs").reports[names[2]].alphas
            assert literal == pytest.approx((x_norms[1] / x_norms[2], x_norms[0] / x_norms[2]), rel=1e-5)


def test_a_cut_to_a_rank_is_the_best_one_and_says_what_it_costs():
    _, adapter, _ = adapted("block")
    whole, cut = merge(adapter), merge(adapter, rank=4)
    name = "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q"
    assert whole.blocks[name].r == 12 and cut.blocks[name].r == 4
    delta = whole.blocks[name].delta_weight()
    U, S, Vh = torch.linalg.svd(delta)
    best = U[:, :4] * S[:4] @ Vh[:4]
    torch.testing.assert_close(cut.blocks[name].delta_weight(), best, rtol=1e-4, atol=1e-5)
    assert cut.reports[name].error == pytest.approx(float((delta - best).norm() / delta.norm()), rel=1e-4)
    assert merge(adapter, rank=99).blocks[name].r == 12


def test_fusing_into_half_precision_rounds_once_and_tells_the_error():
    unet, adapter, statistics = adapted("input")
    plain = merge(adapter, "least_squares", statistics)
    adapter.remove()
    exact, half = copy.deepcopy(unet), copy.deepcopy(unet).bfloat16().float()
    half.bfloat16()
    assert plain.fuse_into(exact) == 0.0
    error = plain.fuse_into(half)
    assert 0 < error < 0.02


def test_fusing_into_another_model_changes_nothing():
    _, adapter, _ = adapted("none")
    plain = merge(adapter)
    other = small_unet({**SMALL, "cross_attention_dim": 40})
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="belongs to another model"):
        plain.fuse_into(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match="has no"):
        PlainLoRA({"nowhere": next(iter(plain.blocks.values()))}).fuse_into(other)


def test_statistics_need_data_that_is_finite():
    unet = small_unet()
    adapter = add_reslora(unet, ResLoRAConfig(r=4))
    with pytest.raises(ValueError, match="at least one batch"):
        collect_statistics(adapter, [], lambda batch: None)
    broken = inputs_for(unet)
    broken["sample"] = broken["sample"] * float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        collect_statistics(adapter, [broken], lambda batch: unet(**batch))
    assert unet.training is small_unet().training


def test_norms_come_from_the_last_window():
    unet = small_unet()
    adapter = add_reslora(unet, ResLoRAConfig(r=4))
    statistics = collect_statistics(adapter, range(5), lambda seed: unet(**inputs_for(unet, seed=seed)), window=2)
    last = collect_statistics(adapter, range(3, 5), lambda seed: unet(**inputs_for(unet, seed=seed)), window=2)
    name = next(iter(adapter.blocks))
    assert statistics.blocks[name].input_norms == last.blocks[name].input_norms
