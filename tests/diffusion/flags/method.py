"""Flags of the adapter and its merge."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_object
from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

SMALL = ("--rank", 2, "--target_modules", "attn2.to_k", "attn2.to_v")
BS = ("--method", "reslora_bs")
FROZEN = ("--method", "reslora_frozen")
CUT_BS = (*BS, "--merge_rank", 3, "--no_report")
BY_INPUTS = ("--method", "reslora_ms", "--merge_approach", "weights", "--no_report", "--alpha_from", "inputs")
INPUT = ("--merge_approach", "input", "--calibration_samples", 6, "--no_report")
elsewhere(
    train_text_encoder="test_text_encoders.py::test_a_lora_of_both_starts_both",
    init_lora="test_starting.py::test_training_goes_on_where_another_run_ended_and_the_base_stays_the_models_own",
    init_lora_partial=(
        "test_starting.py::test_what_has_no_place_is_refused_before_anything_is_written_and_left_out_if_asked"
    ),
)
EXPORTED = "pytorch_lora_weights.safetensors"


def gradients(it: Seen) -> dict[str, Tensor]:
    """The first step's gradients of every block's lora_A and lora_B, by the block's name."""
    sites, rank = it.about()["link_plan"], it.about()["lora_config"]["r"]
    sizes = [rank * (site["in_features"] + site["out_features"]) for site in sites]
    parts = it.updates[0].gradients.split(sizes)
    return {site["name"]: part for site, part in zip(sites, parts, strict=True)}


def predecessors(it: Seen) -> dict[str, list[str]]:
    return {site["name"]: site["predecessors"] for site in it.about()["link_plan"]}


def changed(it: Seen, plain: Seen) -> set[str]:
    """Blocks whose first gradient differs. Before that step lora_B is zero, so that only a block's own paths count."""
    mine, others = gradients(it), gradients(plain)
    return {name for name in mine if not torch.allclose(mine[name], others[name], rtol=1e-3, atol=1e-9)}


@row("method", *BS)
def from_the_second_step_on_the_adapter_predicts_otherwise(it: Seen, plain: Seen) -> None:
    assert it.column("loss")[0] == plain.column("loss")[0]
    assert abs(it.column("loss")[1] - plain.column("loss")[1]) > 1e-3
    assert "reslora_bs: 48 blocks" in it.said


@row("rank", *SMALL)
def every_factor_has_so_many_rows_or_columns(it: Seen, plain: Seen) -> None:
    assert {min(value.shape) for value in it.saved().values()} == {2}


@row("target_modules", *SMALL)
def only_these_linears_get_blocks(it: Seen, plain: Seen) -> None:
    assert {name.split("transformer_blocks.0.")[1][:-2] for name in it.saved()} == {"attn2.to_k", "attn2.to_v"}


@row("lora_alpha", "--lora_alpha", 16)
def half_of_alpha_halves_the_first_gradient(it: Seen, plain: Seen) -> None:
    torch.testing.assert_close(it.updates[0].gradients, plain.updates[0].gradients / 2, rtol=1e-4, atol=1e-8)


@row("lora_dropout", "--lora_dropout", 0.5)
def branches_see_other_inputs_and_the_frozen_model_the_same(it: Seen, plain: Seen) -> None:
    assert it.column("loss")[0] == plain.column("loss")[0]
    assert changed(it, plain) == gradients(plain).keys()


@row("first_block", "--first_block", "none")
def the_first_block_of_a_chain_is_no_longer_doubled(it: Seen, plain: Seen) -> None:
    starts = {name for name, before in predecessors(plain).items() if not before}
    assert changed(it, plain) == starts
    halves, wholes = gradients(it), gradients(plain)
    for name in starts:
        torch.testing.assert_close(2 * halves[name], wholes[name], rtol=1e-3, atol=1e-8)


def its_blocks_are_those_whose_gradient_changed(it: Seen, plain: Seen) -> None:
    """But for blocks on the text: all of them read the same, so that another one's input is their own again."""
    mine, others = predecessors(it), predecessors(plain)
    reads_text = {site["name"] for site in it.about()["link_plan"] if site["reads_text"]}
    moved = {name for name in mine.keys() - reads_text if mine[name] != others[name]}
    assert moved and changed(it, plain) == moved


@row("link", "--link", "same_size")
def paths_come_from_the_last_block_of_the_same_size(it: Seen, plain: Seen) -> None:
    assert sum(map(bool, predecessors(it).values())) > sum(map(bool, predecessors(plain).values()))
    its_blocks_are_those_whose_gradient_changed(it, plain)


@row("across_attention", "--across_attention")
def paths_lead_from_one_attention_to_the_other(it: Seen, plain: Seen) -> None:
    pairs = [(name, before) for name, befores in predecessors(it).items() for before in befores]
    assert pairs and all(("attn1" in name) != ("attn1" in before) for name, before in pairs)
    its_blocks_are_those_whose_gradient_changed(it, plain)


@row("pre_num", *BS, "--pre_num", 1, without=BS)
def blocks_use_at_most_so_many_others(it: Seen, plain: Seen) -> None:
    assert max(map(len, predecessors(it).values())) == 1
    assert changed(it, plain)


@row("merge_rank", *CUT_BS, without=(*BS, "--no_report"), whole=True)
def the_exported_factors_are_cut(it: Seen, plain: Seen) -> None:
    tensors, _ = load_tensors(it.run / EXPORTED)
    assert {value.shape[0] for name, value in tensors.items() if name.endswith("lora_A.weight")} == {3}


@row("merge_approach", *INPUT, without=("--no_report",), whole=True)
def that_merge_is_exported(it: Seen, plain: Seen) -> None:
    assert load_tensors(it.run / EXPORTED)[1]["reslora_merge_approach"] == "input"
    assert list(read_object(it.run / "merge_report.json", pytest.fail)["end_to_end"]["drift"]) == ["input"]


@row("alpha_from", *BY_INPUTS, without=(*BY_INPUTS[:-2],), whole=True)
def eq_13_takes_its_factors_from_norms_of_inputs(it: Seen, plain: Seen) -> None:
    blocks = read_object(it.run / "merge_report.json", pytest.fail)["blocks"]
    before = predecessors(it)
    linked = next(name for name in before if before[name])
    assert blocks[linked]["input_norm"], "no statistics were taken"
    expected = [blocks[one]["input_norm"] / blocks[linked]["input_norm"] for one in before[linked]]
    assert blocks[linked]["alphas"] == pytest.approx(expected, rel=1e-6)


@row("path_samples", *FROZEN, "--path_samples", 5, without=FROZEN)
def paths_are_measured_on_so_many_pictures(it: Seen, plain: Seen) -> None:
    assert it.about()["frozen_paths"]["pictures"] == 6 and plain.about()["frozen_paths"]["pictures"] == 16
    linked = {name for name, before in predecessors(it).items() if before}
    assert it.about()["frozen_paths"]["explained"].keys() == linked
    reads_text = {site["name"] for site in it.about()["link_plan"] if site["reads_text"]}
    assert changed(it, plain) == linked - reads_text


@row("calibration_samples", *INPUT, without=("--no_report", "--calibration_samples", 8), whole=True)
def statistics_are_taken_from_so_many_pictures(it: Seen, plain: Seen) -> None:
    assert re.search(r"statistics: 100%\S+ 3/3 ", it.said)  # batches of 2
