"""What is gathered, against sums over explicit inputs."""

from typing import Any

import pytest
import torch

from reslora_sd import collect_statistics
from tests.merging.adapted import LAYERS, adapted_toy, chain_of, norm, parts_of, rows_of
from tests.toys import TARGETS, ids_for

SEEDS = range(20, 24)


def gather(model, adapter, seeds=SEEDS, **settings):
    return collect_statistics(adapter, seeds, lambda seed: model(ids_for(seed)), **settings)


def test_norms_of_inputs_and_middles_are_those_of_each_forward_pass():
    model, adapter = adapted_toy("input")
    statistics = gather(model, adapter)
    every = [rows_of(model, seed) for seed in SEEDS]
    assert statistics.window == 32
    for name in adapter.blocks:
        A = parts_of(adapter, name)[0]
        sums = statistics.blocks[name]
        assert list(sums.input_norms) == pytest.approx([norm(rows[name]) for rows in every], rel=1e-5)
        assert list(sums.middle_norms) == pytest.approx([norm(rows[name] @ A.T) for rows in every], rel=1e-5)


def test_only_the_last_window_of_norms_stays():
    model, adapter = adapted_toy("input")
    statistics, last = gather(model, adapter, window=2), gather(model, adapter, seeds=list(SEEDS)[-2:])
    for name in adapter.blocks:
        assert list(statistics.blocks[name].input_norms) == list(last.blocks[name].input_norms)
        assert list(statistics.blocks[name].middle_norms) == list(last.blocks[name].middle_norms)


@pytest.mark.parametrize(("residual", "pre_num"), [("input", None), ("middle", 1), ("middle", 2), ("middle", -1)])
def test_moments_are_means_over_all_tokens(residual, pre_num):
    model, adapter = adapted_toy(residual, pre_num=pre_num)
    statistics = gather(model, adapter)
    every = [rows_of(model, seed) for seed in SEEDS]
    for projection in ("q", "k", "o"):
        names = chain_of(projection)
        for place in range(1, LAYERS):
            name, count = names[place], adapter.config.pre_num
            earlier = names[:place][::-1] if count == -1 else names[:place][::-1][:count]
            x = torch.cat([rows[name] for rows in every])
            if residual == "input":
                e = torch.cat([rows[earlier[0]] for rows in every]) @ parts_of(adapter, name)[0].T
            else:
                parts = [torch.cat([rows[one] for rows in every]) @ parts_of(adapter, one)[0].T for one in earlier]
                e = torch.stack(parts).sum(0)
            sums = statistics.blocks[name]
            tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
            gram = statistics.grams[adapter.blocks[name].input_name]
            torch.testing.assert_close(gram, x.T @ x / len(x), **tolerance)
            torch.testing.assert_close(sums.cross, e.T @ x / len(x), **tolerance)
            torch.testing.assert_close(sums.extra, e.T @ e / len(x), **tolerance)
            assert gram.dtype == sums.cross.dtype == sums.extra.dtype == torch.float64


def test_sums_are_float32_under_autocast():
    model, adapter = adapted_toy("input")

    def forward(seed):
        with torch.autocast("cpu", torch.bfloat16):
            model(ids_for(seed))

    statistics = collect_statistics(adapter, SEEDS, forward)
    assert statistics.grams
    for name, gram in statistics.grams.items():  # of bfloat16 inputs, but with no more than float32's rounding
        assert gram.trace().item() == pytest.approx(statistics.squares[name], rel=1e-6)


def test_every_input_is_counted_once_however_many_blocks_read_it():
    model, adapter = adapted_toy("input")
    statistics = gather(model, adapter)
    inputs = {block.input_name for block in adapter.blocks.values()}
    assert len(inputs) == 2 * LAYERS + 1  # q and k of a layer share one, all of t share one
    assert statistics.tokens == {name: len(SEEDS) * 12 for name in inputs}


@pytest.mark.parametrize(("residual", "needed"), [("none", 0), ("block", 0), ("input", 6), ("middle", 6)])
def test_large_sums_are_made_only_where_a_merge_needs_data(residual, needed):
    model, adapter = adapted_toy(residual)
    statistics = gather(model, adapter)
    assert len(statistics.grams) == needed  # not where chains start, and not for t, whose inputs are all one
    with_cross = {name for name, sums in statistics.blocks.items() if sums.cross is not None}
    expected = {name for p in ("q", "k", "o") for name in chain_of(p)[1:]} if needed else set()
    assert with_cross == expected == {name for name, sums in statistics.blocks.items() if sums.extra is not None}


def test_tokens_that_the_mask_leaves_out_dont_count():
    model, adapter = adapted_toy("middle")
    masks = {seed: torch.arange(12).view(2, 6) % 3 != seed % 2 for seed in SEEDS}
    statistics = gather(model, adapter, token_mask=lambda seed: masks[seed].int())
    every = {seed: rows_of(model, seed) for seed in SEEDS}
    name = chain_of("q")[2]
    kept = [every[seed][name][masks[seed].flatten()] for seed in SEEDS]
    x = torch.cat(kept)
    assert statistics.tokens[adapter.blocks[name].input_name] == len(x) == 8 * len(SEEDS)
    gram = statistics.grams[adapter.blocks[name].input_name]
    torch.testing.assert_close(gram, x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    assert list(statistics.blocks[name].input_norms) == pytest.approx([norm(one) for one in kept], rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 5), (12,), (1, 6)])
def test_a_mask_of_another_shape_is_told(shape):
    model, adapter = adapted_toy("middle")
    with pytest.raises(ValueError, match=r"token_mask gives \(.*\), but the input of layers\.0\.q has \(2, 6\) tokens"):
        gather(model, adapter, token_mask=lambda seed: torch.ones(shape))


def test_no_batch_and_inputs_that_are_no_numbers_are_told():
    model, adapter = adapted_toy("middle")
    with pytest.raises(ValueError, match="at least one batch"):
        gather(model, adapter, seeds=[])
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            model.text.weight[:] = bad
        with pytest.raises(ValueError, match=r"^The input of layers\.0\.t holds NaN or infinity"):
            gather(model, adapter)


def test_what_is_no_number_is_told_in_whatever_pass():
    """Only the last passes are in the window; the sums are of all."""
    model, adapter = adapted_toy("middle")
    text = model.text.weight.detach().clone()

    def forward(number):
        with torch.no_grad():
            model.text.weight[:] = float("nan") if number == 1 else text
        model(ids_for(number))

    with pytest.raises(ValueError, match=r"^The input of layers\.0\.t holds NaN or infinity"):
        collect_statistics(adapter, range(4), forward, window=2)


def test_a_block_that_did_not_run_is_named():
    model, adapter = adapted_toy("none")
    model.layers[3] = torch.nn.Identity()
    model.layers[3].forward = lambda x, text: x
    with pytest.raises(RuntimeError, match=r"^layers\.3\.q did not run"):
        gather(model, adapter)


def test_gathering_changes_no_weight_and_leaves_no_gradient():
    model, adapter = adapted_toy("middle")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gather(model, adapter)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in adapter.parameters())
    assert torch.is_grad_enabled()


def test_all_targets_have_statistics():
    model, adapter = adapted_toy("input")
    assert set(gather(model, adapter).blocks) == {name for projection in TARGETS for name in chain_of(projection)}
