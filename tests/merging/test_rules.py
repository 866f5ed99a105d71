"""Every rule for every place of a chain, against the paper's formulas written out on explicit inputs and weights."""

import functools
import itertools

import pytest
import torch

from reslora_sd import collect_statistics, merge
from reslora_sd.merging import rules
from reslora_sd.runs.names import APPROACHES
from tests.merging.adapted import LAYERS, adapted_toy, chain_of, norm, parts_of, rows_of
from tests.toys import TARGETS, ids_for

SEEDS = range(20, 26)
PLACES = list(itertools.product(TARGETS, range(LAYERS)))


def fresh(residual, **settings):
    model, adapter = adapted_toy(residual, **settings)
    return model, adapter, collect_statistics(adapter, SEEDS, lambda seed: model(ids_for(seed)))


measured = functools.cache(fresh)
"""The same, made once: for tests that change nothing."""


def mean_norm(values):
    values = [norm(value) for value in values]
    return sum(values) / len(values)


def earlier_of(adapter, projection, place):
    """Names of the predecessors, nearest first, by hand."""
    pre_num = adapter.config.pre_num
    names = chain_of(projection)[:place][::-1]
    return names if pre_num == -1 else names[:pre_num]


def extra_of(adapter, projection, place, rows):
    """e_n of Eqs. 2 and 4 on explicit inputs.  -> (tokens, r)"""
    name = chain_of(projection)[place]
    earlier = earlier_of(adapter, projection, place)
    if adapter.config.residual == "input":
        source = earlier[0] if earlier else name if adapter.config.first_block == "self" else None
        A = parts_of(adapter, name)[0]
        return (rows[source] if source else 0 * rows[name]) @ A.T
    return sum(
        (rows[one] @ parts_of(adapter, one)[0].T for one in earlier), rows[name] @ (0 * parts_of(adapter, name)[0]).T
    )


def close(found, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("first_block", ["self", "none"])
def test_eq_9_alpha_is_the_ratio_of_the_norms_of_the_inputs(first_block):
    model, adapter, statistics = measured("input", first_block=first_block)
    every = [rows_of(model, seed) for seed in SEEDS]
    plain = merge(adapter, "input", statistics)
    for projection, place in PLACES:
        names = chain_of(projection)
        own = mean_norm(rows[names[place]] for rows in every)
        start = 1.0 if first_block == "self" else 0.0
        alpha = mean_norm(rows[names[place - 1]] for rows in every) / own if place else start
        assert plain.reports[names[place]].alpha == pytest.approx(alpha, rel=1e-5)
        A, B, _ = parts_of(adapter, names[place])
        close(plain.blocks[names[place]].lora_A, (1 + alpha) * A)
        close(plain.blocks[names[place]].lora_B, B)


@pytest.mark.parametrize("pre_num", [1, 2, -1])
def test_eq_12_alpha_is_the_sum_of_the_ratios_of_the_norms_of_the_middles(pre_num):
    model, adapter, statistics = measured("middle", pre_num=pre_num)
    every = [rows_of(model, seed) for seed in SEEDS]
    plain = merge(adapter, "input", statistics)
    for projection, place in PLACES:
        name = chain_of(projection)[place]
        f = {one: mean_norm(rows[one] @ parts_of(adapter, one)[0].T for rows in every) for one in chain_of(projection)}
        alpha = sum(f[one] for one in earlier_of(adapter, projection, place)) / f[name]
        assert plain.reports[name].alpha == pytest.approx(alpha, rel=1e-5)
        close(plain.blocks[name].lora_A, (1 + alpha) * parts_of(adapter, name)[0])


@pytest.mark.parametrize("first_block", ["self", "none"])
def test_eq_11_alpha_is_the_ratio_of_the_norms_of_the_merged_weights_before(first_block):
    _, adapter = adapted_toy("input", first_block=first_block)
    plain = merge(adapter, "weights")
    for projection in TARGETS:
        f: list[float] = []  # norms of the merged weights so far
        for place, name in enumerate(chain_of(projection)):
            A, B, W = parts_of(adapter, name)
            if place == 0:
                alpha = 1.0 if first_block == "self" else 0.0
            else:
                alpha = 1.0 if place == 1 else f[place - 2] / f[place - 1]
            assert plain.reports[name].alpha == pytest.approx(alpha, rel=1e-5)
            close(plain.blocks[name].lora_A, (1 + alpha) * A)
            f.append(norm(W + adapter.config.scaling * B @ ((1 + alpha) * A)))


@pytest.mark.parametrize("alpha_from", ["weights", "inputs"])
@pytest.mark.parametrize("pre_num", [1, 2, -1])
def test_eq_13_adds_the_earlier_matrices_with_alphas_of_their_inputs(pre_num, alpha_from):
    model, adapter, statistics = measured("middle", pre_num=pre_num)
    every = [rows_of(model, seed) for seed in SEEDS]
    plain = merge(adapter, "weights", statistics, alpha_from=alpha_from)
    for projection in TARGETS:
        f: dict[str, float] = {}
        for place, name in enumerate(chain_of(projection)):
            earlier = earlier_of(adapter, projection, place)
            if alpha_from == "inputs":
                own = mean_norm(rows[name] for rows in every)
                alphas = [mean_norm(rows[one] for rows in every) / own for one in earlier]
            else:  # x_{n-k} is about h_{n-k-1}, and the start of a chain has no such
                chain = chain_of(projection)
                before = {one: chain[chain.index(one) - 1] for one in chain[1:]}
                alphas = [f[before[one]] / f[earlier[0]] if one in before else 1.0 for one in earlier]
            assert plain.reports[name].alphas == pytest.approx(alphas, rel=1e-5)
            assert plain.reports[name].alpha is None
            A, B, W = parts_of(adapter, name)
            pairs = zip(alphas, earlier, strict=True)
            merged = A + sum((alpha * parts_of(adapter, one)[0] for alpha, one in pairs), 0 * A)
            close(plain.blocks[name].lora_A, merged)
            f[name] = norm(W + adapter.config.scaling * B @ merged)


@pytest.mark.parametrize("settings", [{}, {"first_block": "none"}], ids=["self", "none"])
@pytest.mark.parametrize("residual", ["input", "middle"])
def test_least_squares_is_the_solution_of_an_independent_solver_for_every_block(residual, settings):
    model, adapter, statistics = measured(residual, **settings)
    every = [rows_of(model, seed) for seed in SEEDS]
    plain = merge(adapter, "least_squares", statistics, ridge=1e-2)
    for projection, place in PLACES:
        name = chain_of(projection)[place]
        x = torch.cat([rows[name] for rows in every])
        e = torch.cat([extra_of(adapter, projection, place, rows) for rows in every])
        A = parts_of(adapter, name)[0]
        if place == 0 or projection == "t":  # e_n is a known map of x_n: no data, no ridge
            change = torch.linalg.lstsq(x, e).solution.T
        else:  # a ridge is further rows of the regression that ask for nothing
            ridge = (1e-2 * x.square().sum() / x.shape[1]).sqrt() * torch.eye(x.shape[1], dtype=x.dtype)
            change = torch.linalg.lstsq(torch.cat([x, ridge]), torch.cat([e, 0 * e[: len(ridge)]])).solution.T
        close(plain.blocks[name].lora_A, A + change, rtol=1e-3)
        assert plain.blocks[name].scaling == adapter.config.scaling


@pytest.mark.parametrize("residual", ["input", "middle"])
def test_least_squares_without_a_ridge_is_plain_regression(residual):
    model, adapter, statistics = measured(residual)
    every = [rows_of(model, seed) for seed in SEEDS]
    plain = merge(adapter, "least_squares", statistics, ridge=0)
    for place in range(1, LAYERS):
        name = chain_of("q")[place]
        x = torch.cat([rows[name] for rows in every])
        e = torch.cat([extra_of(adapter, "q", place, rows) for rows in every])
        expected = parts_of(adapter, name)[0] + torch.linalg.lstsq(x, e).solution.T
        close(plain.blocks[name].lora_A, expected, rtol=1e-3, atol=1e-4)  # sums are float32


@pytest.mark.parametrize("first_block", ["self", "none"])
@pytest.mark.parametrize(
    ("residual", "approach"), [(one, kind) for one in ("input", "middle") for kind in APPROACHES[one]]
)
def test_the_error_is_that_of_the_branchs_outputs(residual, approach, first_block):
    model, adapter, statistics = measured(residual, first_block=first_block)
    every = [rows_of(model, seed) for seed in SEEDS]
    plain = merge(adapter, approach, statistics)
    for projection, place in PLACES:
        name = chain_of(projection)[place]
        x = torch.cat([rows[name] for rows in every])
        e = torch.cat([extra_of(adapter, projection, place, rows) for rows in every])
        A, B, _ = parts_of(adapter, name)
        if place == 0 or projection == "t":  # norms of matrices stand for those of outputs
            x, e = torch.eye(A.shape[1], dtype=A.dtype), torch.linalg.lstsq(x, e).solution
        whole = (x @ A.T + e) @ B.T
        missed = whole - x @ plain.blocks[name].lora_A.double().T @ B.T
        assert plain.reports[name].error == pytest.approx(norm(missed) / norm(whole), rel=1e-2, abs=2e-4)


def test_there_is_no_error_where_there_is_no_branch_or_nothing_is_approximated():
    for residual, approach in (("none", "exact"), ("block", "none")):
        _, adapter, statistics = measured(residual)
        assert {report.error for report in merge(adapter, approach, statistics).reports.values()} == {None}
    for residual in ("input", "middle"):
        _, adapter, statistics = fresh(residual)
        with torch.no_grad():
            for block in adapter.blocks.values():
                block.lora_B.zero_()
        assert {report.error for report in merge(adapter, "none", statistics).reports.values()} == {None}
    _, adapter = adapted_toy("input")
    assert {report.error for report in merge(adapter, "none").reports.values()} == {None}


def test_inputs_of_zero_give_no_ratio_and_no_crash():
    model, adapter = adapted_toy("input", targets=("t",))
    with torch.no_grad():
        model.text.weight.zero_()
    statistics = collect_statistics(adapter, SEEDS, lambda seed: model(ids_for(seed)))
    reports = merge(adapter, "input", statistics).reports
    assert [reports[name].alpha for name in chain_of("t")] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("pre_num", [1, 2, 4, -1])
def test_eq_5_is_the_sum_of_the_products(pre_num):
    _, adapter = adapted_toy("block", pre_num=pre_num)
    plain = merge(adapter)
    assert plain.approach == "exact" and plain.config == adapter.config
    for projection, place in PLACES:
        name = chain_of(projection)[place]
        blocks = [name, *earlier_of(adapter, projection, place)]
        delta = sum(parts_of(adapter, one)[1] @ parts_of(adapter, one)[0] for one in blocks)
        close(plain.blocks[name].delta_weight(), adapter.config.scaling * delta)
        assert plain.reports[name].r == plain.blocks[name].r == 3 * len(blocks)
        assert plain.reports[name].error == 0.0
        assert plain.reports[name].alpha is None and plain.reports[name].alphas == ()


@pytest.mark.parametrize("rank", [1, 3, 5, 6, 7])
def test_a_cut_is_eckart_and_youngs_best_and_its_error_is_told(rank):
    _, adapter = adapted_toy("block", pre_num=1)
    plain, whole = merge(adapter, rank=rank), merge(adapter)
    for name, block in plain.blocks.items():
        full = whole.blocks[name]
        if full.r <= rank:
            assert torch.equal(block.lora_A, full.lora_A) and torch.equal(block.lora_B, full.lora_B)
            assert plain.reports[name].error == 0.0
            continue
        delta = full.delta_weight().double()
        U, S, Vh = torch.linalg.svd(delta)
        best = U[:, :rank] * S[:rank] @ Vh[:rank]
        close(block.delta_weight(), best)
        assert block.r == plain.reports[name].r == rank
        assert plain.reports[name].error == pytest.approx(norm(delta - best) / norm(delta), rel=1e-4)
        A, B = block.lora_A, block.lora_B  # halves of equal weight, so that neither overflows in half precision
        torch.testing.assert_close(A @ A.T, B.T @ B, rtol=1e-3, atol=1e-4)


def test_a_cut_of_nothing_costs_nothing():
    _, adapter = adapted_toy("block")
    with torch.no_grad():
        for block in adapter.blocks.values():
            block.lora_B.zero_()
    assert {report.error for report in merge(adapter, rank=2).reports.values()} == {0.0}


def test_the_norm_of_a_merged_weight_is_found_without_building_it():
    torch.manual_seed(0)
    W, A, B = torch.randn(7, 6), torch.randn(3, 6), torch.randn(7, 3)
    assert rules.merged_norm(W, A, B, 1.5) == pytest.approx(norm(W.double() + 1.5 * B.double() @ A.double()), rel=1e-9)
    assert rules.merged_norm(-1.5 * B @ A, A, B, 1.5) < 1e-2  # rounding below zero is no error


@pytest.mark.parametrize(
    ("residual", "arguments", "words"),
    [
        ("input", {"approach": "exact"}, r"^Approach 'exact' doesn't fit residual 'input'\. It can be merged by "),
        ("block", {"approach": "least_squares"}, r"doesn't fit residual 'block'\. .* none, exact|exact, none"),
        ("input", {"approach": "least_squares"}, "needs statistics"),
        ("middle", {"approach": "input"}, "needs statistics"),
        ("middle", {"approach": "weights", "alpha_from": "inputs"}, "needs statistics"),
        ("middle", {"approach": "weights", "alpha_from": "x"}, "alpha_from is 'x'"),
        ("block", {"alpha_from": "inputs", "approach": "none"}, "has a meaning for"),
        ("middle", {"alpha_from": "inputs", "approach": "none"}, "has a meaning for"),
        ("input", {"alpha_from": "inputs", "approach": "none"}, "has a meaning for"),
        ("block", {"rank": 0}, r"^rank is 0\."),
        ("block", {"rank": -1}, r"^rank is -1\."),
        ("none", {"rank": 2}, "residual 'block' only"),
        ("block", {"rank": 2, "approach": "none"}, "residual 'block' only"),
        ("none", {"ridge": -1.0}, r"^ridge is -1\.0\."),
        ("none", {"ridge": float("nan")}, "^ridge is nan"),
    ],
)
def test_what_cannot_be_merged_is_told(residual, arguments, words):
    _, adapter, _ = measured(residual)
    with pytest.raises(ValueError, match=words):
        merge(adapter, **arguments)


def test_alphas_from_inputs_are_refused_for_eq_11():
    _, adapter, statistics = measured("input")
    with pytest.raises(ValueError, match="of residual 'middle' only"):
        merge(adapter, "weights", statistics, alpha_from="inputs")


@pytest.mark.parametrize(
    ("residual", "best"),
    [("none", "exact"), ("block", "exact"), ("input", "least_squares"), ("middle", "least_squares")],
)
def test_left_alone_merge_takes_the_best_approach(residual, best):
    _, adapter, statistics = measured(residual)
    default, named = merge(adapter, None, statistics), merge(adapter, best, statistics, ridge=1e-4)
    assert default.approach == best
    for name, block in default.blocks.items():
        assert torch.equal(block.lora_A, named.blocks[name].lora_A)
        assert not block.lora_A.requires_grad and block.lora_A.is_contiguous() and block.lora_B.is_contiguous()
        assert block.lora_A.dtype == block.lora_B.dtype == torch.float32


@pytest.mark.parametrize("residual", ["none", "input", "middle"])
def test_paths_that_are_dropped_leave_a_and_b_as_they_are(residual):
    _, adapter = adapted_toy(residual)
    for name, block in merge(adapter, "exact" if residual == "none" else "none").blocks.items():
        A, B, _ = parts_of(adapter, name)
        close(block.lora_A, A, rtol=0)
        close(block.lora_B, B, rtol=0)


@pytest.mark.parametrize(("residual", "approach"), [(one, kind) for one, kinds in APPROACHES.items() for kind in kinds])
def test_training_on_leaves_a_merge_as_it_was(residual, approach):
    _, adapter, statistics = fresh(residual)
    plain = merge(adapter, approach, statistics)
    before = {name: (block.lora_A.clone(), block.lora_B.clone()) for name, block in plain.blocks.items()}
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1)
    for name, (A, B) in before.items():
        assert torch.equal(plain.blocks[name].lora_A, A) and torch.equal(plain.blocks[name].lora_B, B)
        assert not plain.blocks[name].lora_A.requires_grad
