"""Residual `frozen`: its maps against a plain regression, its merge, and what starts from a LoRA."""

from __future__ import annotations

import pytest
import torch

from reslora_sd import ResLoRAConfig, add_reslora, collect_statistics, merge
from reslora_sd.blocks.frozen import share_map
from reslora_sd.merging.applied import applied
from reslora_sd.merging.frozen import freeze_paths
from reslora_sd.merging.plain_lora import PlainLoRA
from reslora_sd.merging.start import start_from
from tests.merging.adapted import LAYERS, adapted_toy, chain_of, rows_of
from tests.toys import TARGETS, give_maps, ids_for, move_away_from_zero, toy


def config(**settings):
    return ResLoRAConfig(residual="frozen", r=3, target_modules=TARGETS, **settings)


def frozen_toy(seeds=(1, 2, 3), **settings):
    """A toy whose maps were measured on some batches, with blocks that have left zero; and the shares."""
    model = toy(LAYERS).eval()
    adapter = add_reslora(model, config(**settings))
    shares = freeze_paths(adapter, [ids_for(seed) for seed in seeds], model)
    maps = {name: value.clone() for name, value in adapter.named_maps() if value is not None}
    move_away_from_zero(adapter, std=0.3)
    for name, value in maps.items():
        block = adapter.blocks[name.removesuffix(".lora_M")]
        share_map([one for one in adapter.blocks.values() if one.input_name == block.input_name], value)
    return model, adapter, shares


def base_rows(seeds=(1, 2, 3)):
    """{block: x (tokens, in), float64} of the base model."""
    model = toy(LAYERS).eval()
    add_reslora(model, ResLoRAConfig(residual="none", r=1, target_modules=TARGETS))
    found = [rows_of(model, seed) for seed in seeds]
    return {name: torch.cat([rows[name] for rows in found]) for name in found[0]}


def regression(x, y):
    """The M of the least sum of ||y - M x||^2 + ridge ||M||^2."""
    ridge = 1e-4 * float((x**2).mean(0).mean()) * len(x)
    return torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y).T


@pytest.mark.parametrize("projection", ["q", "k", "o"])
def test_a_map_is_the_regression_of_the_block_before_on_the_base_models_own_inputs(projection):
    _, adapter, shares = frozen_toy()
    rows = base_rows()
    for before, name in zip(chain_of(projection), chain_of(projection)[1:], strict=False):
        M = regression(rows[name], rows[before])
        torch.testing.assert_close(adapter.blocks[name].lora_M.double(), M, rtol=1e-4, atol=1e-4)
        missed = rows[before] - rows[name] @ M.T
        assert shares[name] == pytest.approx(1 - float(missed.norm() / rows[before].norm()) ** 2, abs=1e-5)


def test_blocks_of_one_input_share_a_map_and_those_of_the_text_need_none():
    _, adapter, shares = frozen_toy()
    for layer in range(1, LAYERS):
        q, k = adapter.blocks[f"layers.{layer}.q"], adapter.blocks[f"layers.{layer}.k"]
        assert q.lora_M is k.lora_M and adapter.blocks[f"layers.{layer}.t"].lora_M is None
        assert shares[f"layers.{layer}.t"] == 1.0
    assert [name for name, _ in adapter.named_maps()] == [
        f"layers.{layer}.{projection}.lora_M" for layer in range(1, LAYERS) for projection in "qo"
    ]
    assert adapter.blocks["layers.0.q"].lora_M is None and "layers.0.q" not in shares


def test_measuring_changes_neither_the_model_nor_what_trains():
    model = toy(LAYERS).eval()
    before = model(ids_for(1))
    torch.manual_seed(4)
    adapter = add_reslora(model, config())
    first = {name: parameter.clone() for name, parameter in adapter.named_parameters()}
    freeze_paths(adapter, [ids_for(1)], model)
    assert torch.equal(model(ids_for(1)), before)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == {
        f"{name.rsplit('.', 1)[0]}.block.{name.rsplit('.', 1)[1]}" for name in first
    }
    assert all(torch.equal(parameter, first[name]) for name, parameter in adapter.named_parameters())


@pytest.mark.parametrize("first_block", ["self", "none"])
def test_the_merge_is_the_model_itself_with_factors_of_the_same_rank(first_block):
    model, adapter, _ = frozen_toy(first_block=first_block)
    unmerged, plain = model(ids_for(5)), merge(adapter)
    assert plain.approach == "exact" and {block.r for block in plain.blocks.values()} == {3}
    with applied(plain, model):
        torch.testing.assert_close(model(ids_for(5)), unmerged, rtol=1e-4, atol=1e-5)
    assert (merge(adapter).blocks["layers.1.q"].lora_A - adapter.blocks["layers.1.q"].lora_A).abs().max() > 0.1
    assert {report.error for report in plain.reports.values()} == {0.0}
    start = plain.blocks["layers.0.q"].lora_A / adapter.blocks["layers.0.q"].lora_A
    torch.testing.assert_close(start, torch.full_like(start, 2.0 if first_block == "self" else 1.0))


@pytest.mark.parametrize("residual", ["input", "middle", "frozen"])
def test_a_merge_with_statistics_says_what_x_n_explains_of_the_block_before(residual):
    model, adapter = adapted_toy(residual)
    statistics = collect_statistics(adapter, [ids_for(seed) for seed in (1, 2)], model)
    reports = merge(adapter, statistics=statistics).reports
    found = [rows_of(model, seed) for seed in (1, 2)]
    for before, name in zip(chain_of("o"), chain_of("o")[1:], strict=False):
        x, y = (torch.cat([rows[one] for rows in found]) for one in (name, before))
        missed = y - x @ regression(x, y).T
        assert reports[name].explained == pytest.approx(1 - float(missed.norm() / y.norm()) ** 2, abs=1e-5)
    assert reports["layers.0.o"].explained is None and reports["layers.1.t"].explained == 1.0
    assert merge(adapter, "exact" if residual == "frozen" else "none").reports["layers.1.o"].explained is None


@pytest.mark.parametrize("residual", ["none", "block"])
def test_residuals_that_read_no_earlier_input_have_no_share(residual):
    model, adapter = adapted_toy(residual)
    reports = merge(adapter, statistics=collect_statistics(adapter, [ids_for(1)], model)).reports
    assert {reports[name].explained for name in chain_of("o")} == {None}


def test_an_adapter_that_was_not_measured_neither_runs_nor_is_saved(tmp_path):
    model = toy(LAYERS).eval()
    adapter = add_reslora(model, config())
    with pytest.raises(RuntimeError, match=r"path of layers\.1\.q hasn't been measured. Call .*freeze_paths"):
        model(ids_for(1))
    with pytest.raises(RuntimeError, match=r"path of layers\.1\.q hasn't been measured"):
        adapter.save(tmp_path / "a.safetensors")
    with pytest.raises(RuntimeError, match=r"path of layers\.1\.q hasn't been measured"):
        merge(adapter)


def test_other_residuals_have_no_maps_to_measure():
    model, adapter = adapted_toy("input")
    with pytest.raises(ValueError, match=r"The adapter's residual is 'input'. Only residual 'frozen' has maps"):
        freeze_paths(adapter, [ids_for(1)], model)


def started(plain, spoil=None):
    model = toy(LAYERS).eval()
    adapter = give_maps(add_reslora(model, config()))
    if spoil is not None:
        block = adapter.blocks["layers.1.o"]
        share_map([block], spoil(block.lora_M.detach()))
    return adapter, start_from(adapter, plain, lambda: iter(()), lambda batch: None)


def some_lora():
    _, adapter = adapted_toy("none")
    plain = merge(adapter)
    return PlainLoRA(plain.blocks, plain.config, plain.approach)


def test_a_start_from_a_lora_is_exact_without_data_where_the_maps_can_be_inverted():
    plain = some_lora()
    adapter, told = started(plain)
    assert {one.error for one in told.values()} == {0.0}
    for name, block in merge(adapter).blocks.items():
        torch.testing.assert_close(block.delta_weight(), plain.blocks[name].delta_weight(), rtol=1e-3, atol=1e-4)


def test_a_map_that_loses_directions_gives_the_closest_start_and_tells_what_it_misses():
    plain, lost = some_lora(), torch.zeros(8, 8)
    lost[0, 0] = 1.0

    def spoil(M):  # I + M keeps nothing of the first input feature
        return -lost

    adapter, told = started(plain, spoil)
    wanted, found = (one.blocks["layers.1.o"].delta_weight() for one in (plain, merge(adapter)))
    torch.testing.assert_close(found[:, 1:], wanted[:, 1:], rtol=1e-3, atol=1e-4)
    share = float(wanted[:, 0].norm() / wanted.norm())
    assert told["layers.1.o"].error == pytest.approx(share, rel=1e-3)
    assert {one.error for name, one in told.items() if name != "layers.1.o"} == {0.0}
