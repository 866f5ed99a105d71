"""An adapter that starts from a LoRA is that LoRA where there is such a start, and elsewhere as close as is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reslora_sd import PlainLoRA, ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.merging.applied import applied
from reslora_sd.merging.start import match, start_from
from tests.merging.adapted import LAYERS, chain_of
from tests.toys import TARGETS, ids_for, toy

SEEDS = range(20, 26)
ALL = [name for projection in TARGETS for name in chain_of(projection)]


def lora_of_others(rank=2, names=ALL, seed=5):
    """Random pairs for a toy; no two of them have anything in common."""
    model, generator = toy(LAYERS), torch.Generator().manual_seed(seed)
    blocks = {}
    for name in names:
        out, width = model.get_parameter(f"{name}.weight").shape
        A, B = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
        blocks[name] = PlainBlock(A / 3, B / 3, 0.7)
    return PlainLoRA(blocks)


def started(residual, plain, r=2, data=SEEDS, **settings):
    """A toy with an adapter that started from `plain`, and what was told; `data=None` must not be asked for."""
    torch.manual_seed(1)
    model = toy(LAYERS).eval()
    adapter = add_reslora(model, ResLoRAConfig(residual=residual, r=r, target_modules=TARGETS, **settings))
    return model, adapter, start_from(adapter, plain, lambda: data, lambda seed: model(ids_for(seed)))


def outputs(model):
    with torch.no_grad():
        return torch.stack([model(ids_for(seed)) for seed in SEEDS]).double()


def fused(plain):
    """The toy with the LoRA in its weights: apart from hooks and branches."""
    model = toy(LAYERS).eval()
    for name, block in plain.blocks.items():
        model.get_submodule(name).weight.data += block.scaling * block.lora_B @ block.lora_A
    return model


def inputs_of(plain):
    """{site: (tokens, in), float64} in the model with the LoRA, by hooks of torch."""
    model = fused(plain)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ALL}
    for name in ALL:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: found[name].append(args[0].flatten(0, -2))
        )
    outputs(model)
    return {name: torch.cat(rows).double() for name, rows in found.items()}


def is_the_lora(model, plain):
    expected = outputs(fused(plain))
    assert (expected - outputs(toy(LAYERS).eval())).abs().max() > 0.1
    torch.testing.assert_close(outputs(model), expected, rtol=0, atol=2e-5)


EXACT: dict[str, tuple[str, int, dict[str, Any]]] = {
    "none": ("none", 2, {}),
    "input, alone": ("input", 2, {"first_block": "none"}),
    "block, twice the rank": ("block", 4, {"pre_num": 4}),
    "block, all before it": ("block", 4, {"pre_num": -1}),
    "middle, all ranks side by side": ("middle", 8, {"pre_num": 4}),
    "middle, of one before it": ("middle", 4, {"pre_num": 1}),
    "middle, running sums": ("middle", 9, {"pre_num": -1}),
}


@pytest.mark.parametrize("case", EXACT)
def test_where_an_exact_start_exists_the_model_is_the_lora_without_any_data(case):
    residual, r, settings = EXACT[case]
    plain = lora_of_others(names=chain_of("t") + [chain_of(p)[0] for p in "qko"] if residual == "input" else ALL)
    model, _, told = started(residual, plain, r, data=None, **settings)
    is_the_lora(model, plain)
    assert [one.error for one in told.values()] == [0.0] * len(plain.blocks)


def test_chains_that_start_themselves_and_shared_inputs_halve_the_branch():
    plain = lora_of_others(names=chain_of("t") + [chain_of(p)[0] for p in "qko"])
    model, _, told = started("input", plain, data=None, first_block="self")
    is_the_lora(model, plain)
    assert {one.error for one in told.values()} == {0.0}


def test_a_plain_adapter_takes_the_matrices_and_folds_the_scale():
    plain = lora_of_others()
    _, adapter, _ = started("none", plain, lora_alpha=2 * 0.7)
    for name, block in adapter.blocks.items():
        assert torch.equal(block.lora_A, plain.blocks[name].lora_A)
        assert torch.equal(block.lora_B, plain.blocks[name].lora_B)
    _, adapter, _ = started("none", plain, lora_alpha=2 * 1.4)
    assert torch.equal(adapter.blocks["layers.0.q"].lora_B, plain.blocks["layers.0.q"].lora_B / 2)


@pytest.mark.parametrize("residual", ["none", "input", "block", "middle"])
def test_a_lower_rank_leaves_rows_of_a_new_adapter_that_change_nothing_and_can_learn(residual):
    plain = lora_of_others(rank=1, names=chain_of("t"))
    model, adapter, told = started(residual, plain, r=7)
    is_the_lora(model, plain)
    assert {one.rank for one in told.values()} == {1}
    for name in chain_of("t"):
        block = adapter.blocks[name]
        unused = block.lora_B.abs().sum(0) == 0
        assert unused.sum() >= 7 - 2
        random = block.lora_A[unused].abs().sum(1) > 0
        assert random.sum() >= 7 - LAYERS  # of `middle`, rows that a successor's columns read are zero
    model(ids_for(1)).square().mean().backward()
    learning = [block.lora_B.grad.abs().sum(0) + block.lora_A.grad.abs().sum(1) for block in adapter.blocks.values()]
    assert all((one > 0).all() for one in learning)


def test_a_higher_rank_is_cut_and_the_error_is_told():
    plain = lora_of_others(rank=5)
    _, adapter, told = started("none", plain, r=3)
    for name, block in adapter.blocks.items():
        whole = plain.blocks[name].delta_weight().double()
        S = torch.linalg.svdvals(whole)
        missed = whole - block.scaling * (block.lora_B.detach().double() @ block.lora_A.detach().double())
        assert told[name].cut == pytest.approx(float(S[3:].norm() / S.norm()), abs=1e-5)
        assert float(missed.norm() / whole.norm()) == pytest.approx(told[name].cut, abs=1e-5)


@pytest.mark.parametrize("projection", ["q", "k", "o"])
def test_eq_2_takes_the_a_that_predicts_the_lora_best_from_both_inputs_and_tells_how_well(projection):
    plain = lora_of_others()
    _, adapter, told = started("input", plain)
    rows = inputs_of(plain)
    for before, name in zip(chain_of(projection), chain_of(projection)[1:], strict=False):
        G, B = (matrix.double() for matrix in plain.blocks[name].matrices())
        x, u = rows[name], rows[name] + rows[before]
        gram = u.T @ u
        held = gram + 1e-4 * gram.diagonal().mean() * torch.eye(len(gram))
        expected = G / 2 + torch.linalg.solve(held, u.T @ (x - u / 2) @ G.T).T
        found = adapter.blocks[name].lora_A.detach().double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        missed = (x @ G.T - u @ found.T) @ B.T
        assert told[name].error == pytest.approx(float(missed.norm() / (x @ G.T @ B.T).norm()), rel=1e-2)
        assert 0.05 < told[name].error < 0.95


@pytest.mark.parametrize(("r", "pre_num"), [(2, 4), (2, -1), (3, 1), (5, 4)])
def test_eq_4_started_and_merged_by_the_same_data_is_the_lora_that_was_given(r, pre_num):
    plain = lora_of_others()
    model, adapter, told = started("middle", plain, r, pre_num=pre_num)
    with applied(plain, model):
        statistics = collect_statistics(adapter, SEEDS, lambda seed: model(ids_for(seed)))
    merged = merge(adapter, "least_squares", statistics)
    rows = inputs_of(plain)
    for name, block in adapter.blocks.items():
        expected = plain.blocks[name].delta_weight()
        assert float((merged.blocks[name].delta_weight() - expected).norm() / expected.norm()) < 1e-3
        middle = sum(rows[one.name] @ one.lora_A.detach().double().T for one in (block, *block.predecessors))
        wanted = rows[name] @ expected.double().T
        missed = block.scaling * middle @ block.lora_B.detach().double().T - wanted
        assert told[name].error == pytest.approx(float(missed.norm() / wanted.norm()), rel=1e-2, abs=1e-5)
    assert any(one.error > 0.01 for one in told.values())


def test_eq_4_keeps_large_directions_apart_from_what_its_paths_bring():
    """Ordered as given, both blocks have their large direction in the first row."""
    plain = lora_of_others(names=[*chain_of("q")[:2]])
    for block in plain.blocks.values():
        block.lora_A[1] *= 0.1
        block.lora_B[:, 1] *= 0.1
    _, _, told = started("middle", plain)
    assert 0 < told["layers.1.q"].error < 0.1


def test_eq_3_shares_the_error_of_too_low_a_rank_and_tells_it():
    plain = lora_of_others()
    _, adapter, told = started("block", plain, pre_num=4)
    missed, alone = 0.0, 0.0
    for name, block in adapter.blocks.items():
        whole = plain.blocks[name].delta_weight().double()
        sums = sum(one.scaling * (one.lora_B @ one.lora_A).detach().double() for one in (block, *block.predecessors))
        error = float((sums - whole).norm())
        assert error / max(float(whole.norm()), error) == pytest.approx(told[name].error, abs=1e-5)
        missed += error**2
        before = [plain.blocks[one.name].delta_weight().double() for one in block.predecessors]
        alone += float(sum(before, 0 * whole).norm()) ** 2
    assert 0 < missed < 0.5 * alone  # of the given pairs, taken as they are


@pytest.mark.parametrize(("residual", "r"), [("block", 4), ("middle", 8)])
def test_blocks_that_the_lora_lacks_add_nothing(residual, r):
    plain = lora_of_others(names=[name for name in ALL if name not in ("layers.1.q", "layers.3.t", "layers.0.o")])
    model, adapter, told = started(residual, plain, r, data=None)
    is_the_lora(model, plain)
    assert set(told) == set(plain.blocks) and match(adapter, plain).missing == (
        "layers.0.o",
        "layers.1.q",
        "layers.3.t",
    )


def test_what_has_no_place_is_named():
    plain, model = lora_of_others(), toy(LAYERS)
    adapter = add_reslora(model, ResLoRAConfig(r=2, target_modules=("q", "k")))
    found = match(adapter, plain)
    assert set(found.taken.blocks) == set(adapter.blocks) and found.missing == ()
    assert set(found.left_out) == set(chain_of("o") + chain_of("t"))
    both = PlainLoRA(found.taken.blocks, text_encoders={"text_encoder": {"a.b": plain.blocks["layers.0.o"]}})
    assert match(adapter, both).left_out == ("text_encoder.a.b",)
    nothing = match(adapter, lora_of_others(names=chain_of("o")))
    assert not nothing.taken.blocks and set(nothing.missing) == set(adapter.blocks)


def test_another_models_lora_is_refused_by_name_and_by_shape():
    plain = lora_of_others()
    adapter = add_reslora(toy(LAYERS - 1), ResLoRAConfig(r=2, target_modules=("q",)))
    with pytest.raises(ValueError, match=r"The model has no layers\.3\.q\. This LoRA belongs to another model"):
        match(adapter, plain)
    wide = PlainBlock(torch.ones(1, 9), torch.ones(8, 1), 1.0)
    for name in ("layers.0.q", "layers.0.o"):
        with pytest.raises(ValueError, match=rf"{name} is 8x8 in the model, and 8x9 in this LoRA"):
            match(adapter, PlainLoRA({name: wide}))
    with pytest.raises(ValueError, match=r"The model has no layers\.0\. This LoRA"):
        match(adapter, PlainLoRA({"layers.0": wide}))
