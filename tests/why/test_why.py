"""The measurements of docs/why-it-works.md, on a toy model: equal draws, runs that are kept, tables and plots."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.runs.names import METHODS
from reslora_sd.why import plots
from reslora_sd.why.__main__ import main
from reslora_sd.why.problem import Kind, hash_of
from reslora_sd.why.sweep import Plan, read_runs, sweep
from reslora_sd.why.text import Text
from tests.texts import save_small_llama, write_svamp
from tests.toys import TARGETS, ids_for, toy

KINDS = [Kind("lora"), Kind("reslora_is"), Kind("reslora_frozen"), Kind("reslora_is", "none")]
PLAN = Plan(KINDS, rates=[0.01, 0.02], seeds=[0, 1], steps=4, held_every=2)


class Toy:
    """A problem whose batches are token ids."""

    name, max_grad_norm = "toy", 1.0

    def __init__(self):
        self.asked: dict[str, Any] = {"style": "toy"}
        self.model: nn.Module = toy(4)
        self.drawn = []

    def adapt(self, kind, seed):
        torch.manual_seed(seed)
        config = ResLoRAConfig(METHODS[kind.method], r=3, target_modules=TARGETS, first_block=kind.first_block)
        return add_reslora(self.model, config)

    def measured(self, seed):
        return (ids_for(100 * seed + step) for step in range(3))

    def forward(self, batch):
        return self.model(batch)

    def token_mask(self, batch):
        return None

    def loss(self, seed, step):
        self.drawn.append((seed, step))
        return (self.model(ids_for(100 * seed + step)) - 0.3).square().mean()

    def held_out(self):
        return (self.model(ids_for(999)) - 0.3).square().mean().item()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    problem, out = Toy(), tmp_path_factory.mktemp("why")
    return problem, out, sweep(problem, PLAN, out, lambda text: None)


def test_every_method_starts_alike_and_draws_the_same(swept):
    problem, _, folder = swept
    runs = read_runs(folder, pytest.fail)
    assert len(runs) == 2 * 2 * len(KINDS) and {run["kind"] for run in runs} == set(map(str, KINDS))
    for seed in (0, 1):
        assert len({run["losses"][0] for run in runs if run["seed"] == seed}) == 1  # lora_B is zero
    assert problem.drawn[:8] == [(0, step) for step in range(4)] * 2
    assert all(list(run["held_out"]) == ["2", "4"] for run in runs)
    assert len({run["losses"][-1] for run in runs}) == len(runs)
    assert hash_of(problem.model) == hash_of(toy(4)) and not problem.model._forward_hooks


def test_shares_come_with_the_runs_that_have_them(swept):
    runs = {(run["kind"], run["learning_rate"], run["seed"]): run for run in read_runs(swept[2], pytest.fail)}
    assert len(runs["reslora_frozen", 0.01, 1]["explained"]) == 12 and not runs["lora", 0.01, 0]["explained"]
    assert runs["reslora_is", 0.02, 0]["explained_after"] and not runs["reslora_is", 0.02, 1]["explained_after"]


def test_what_is_there_is_not_trained_again_and_other_weights_have_a_folder_of_their_own(swept):
    _, out, folder = swept
    kept = folder / "lora_0.01_0.json"
    before = kept.read_bytes()
    (folder / "lora_0.01_1.json").unlink()
    again = Toy()
    assert sweep(again, PLAN, out, lambda text: None) == folder
    assert again.drawn == [(1, step) for step in range(4)] and kept.read_bytes() == before
    other = Toy()
    other.model.get_parameter("layers.0.q.weight").data += 1
    assert sweep(other, Plan(KINDS[:1], [0.01], [0], 4, 4), out.parent / "other", print).name != folder.name


def test_tables_have_means_over_seeds_and_say_what_diverged(swept, tmp_path):
    _, out, folder = swept
    text = plots.render(out, tmp_path)
    assert (tmp_path / "why.md").read_text() == text + "\n"
    assert all((tmp_path / f"why_{name}.png").stat().st_size > 1000 for name in ("rates", "losses", "shares"))
    runs = read_runs(folder, pytest.fail)
    held = [run["held_out"]["4"] for run in runs if (run["kind"], run["learning_rate"]) == ("lora", 0.01)]
    mean, half = sum(held) / 2, abs(held[0] - held[1]) / 2**0.5
    assert f"| `lora` | {mean:.4f} ± {half:.4f} |" in text and "`reslora_is:none`" in text
    pairs = [
        next(run["losses"] for run in runs if (run["kind"], run["learning_rate"], run["seed"]) == (kind, 0.01, 0))
        for kind in ("reslora_is", "lora")
    ]
    one = plots.differences([run for run in runs if run["seed"] == 0], "reslora_is", "lora", 0.01)
    assert one == pytest.approx([abs(a - b) for a, b in zip(*pairs, strict=True)])
    broken = {**runs[0], "losses": [1.0, float("nan")], "held_out": {}}
    assert "diverged" in plots.table([broken])


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no results. Run `python -m reslora_sd.why pictures` first"):
        main(["plot", "--out", str(tmp_path), "--plots", str(tmp_path)])


def test_the_command_trains_a_language_model(tmp_path, capsys):
    rows = write_svamp(tmp_path / "train.jsonl", 24)
    words = ["text", "--model", str(save_small_llama(tmp_path / "llama")), "--train_file", str(rows)]
    words += ["--out", str(tmp_path / "out"), "--rates", "0.01", "--seeds", "3", "--steps", "2", "--batch_size", "4"]
    main([*words, "--kept", "4", "--measured", "8", "--kinds", "reslora_frozen", "reslora_is:none"])
    runs = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("text-*-2/reslora_*.json")]
    assert sorted(run["kind"] for run in runs) == ["reslora_frozen", "reslora_is:none"]
    assert len({run["losses"][0] for run in runs}) == 1 and "Results are in" in capsys.readouterr().out


def test_rows_that_are_kept_apart_are_not_trained_on(tmp_path):
    rows = write_svamp(tmp_path / "train.jsonl", 24)
    problem = Text(str(save_small_llama(tmp_path / "llama")), "svamp", str(rows), batch_size=4, kept=4)
    assert len(problem.rows) == 20 and sum(len(batch["input_ids"]) for batch in problem.apart) == 4
    assert sorted(problem._order(5)) == list(range(20)) and problem._order(5) != problem._order(6)


@pytest.mark.slow
def test_the_command_trains_the_embedded_model(tmp_path):
    main(["pictures", "--out", str(tmp_path), "--rates", "1e-3", "--seeds", "0", "--steps", "2", "--kinds", "lora"])
    (file,) = tmp_path.glob("pictures-*-2/lora_0.001_0.json")
    assert len(json.loads(file.read_text())["losses"]) == 2
