"""Every item of the preset `smoke` from end to end: planned, trained, rendered; and what is rendered of it."""

import csv
import importlib
import json
import re

import pytest

from reslora_sd.paper.__main__ import main
from reslora_sd.paper.items import all_items
from tests.forked import launch

IMPORTED = [
    "sklearn.metrics",
    "peft",
    "diffusers.pipelines.stable_diffusion",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
    "transformers.generation",
    "torch._dynamo",
]
"""What trainings import on their way: here once for all of them, as they are forked."""
SCRIPTS = [f"train_scripts.train_{name}_reslora" for name in ("nlg", "nlu", "text_to_image")]
KINDS = ("md", "csv", "json", "png", "svg")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output folder, and what `run` and `render` said."""
    folder = tmp_path_factory.mktemp("paper")
    for name in (*IMPORTED, *SCRIPTS):
        importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslora_sd.runs.sweep.launch", launch)
        main(["run", "all", "--preset", "smoke", "--output_dir", str(folder)])
    main(["render", "all", "--preset", "smoke", "--output_dir", str(folder)])
    return folder


def said(folder, item):
    return json.loads((folder / f"{item}.json").read_text())


def cell(folder, item, row, column):
    return next(one for one in said(folder, item)["cells"] if (one["row"], one["column"]) == (row, column))


def result(folder, pattern):
    (run,) = folder.glob(f"runs/{pattern}")
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize("item", all_items())
def test_every_item_is_written_in_every_form(trained, item):
    assert [kind for kind in KINDS if not (trained / f"{item}.{kind}").stat().st_size] == []
    assert all_items()[item].title in (trained / f"{item}.md").read_text()
    assert (trained / f"{item}.md").read_text() in (trained / "all.md").read_text()


def test_a_cell_is_what_its_run_says(trained):
    found = cell(trained, "table2", "LoKr", "MRPC (F1)")
    figure = 100 * result(trained, "mrpc-lokr-*")["results"]["unmerged"]["f1"]
    assert found["ours"]["mean"] == pytest.approx(figure) and found["paper"] == 81.41
    assert found["difference"] == pytest.approx(figure - 81.41)
    rows = list(csv.DictReader((trained / "table2.csv").open()))
    row = next(one for one in rows if (one["row"], one["column"]) == ("LoKr", "MRPC (F1)"))
    assert float(row["ours"]) == pytest.approx(figure, abs=1e-4) and row["gap"] == ""
    assert re.search(rf"\| LoKr \|.* 81\.41 / {figure:.2f} / ", (trained / "table2.md").read_text())


def test_what_is_not_there_is_a_gap_with_its_reason(trained):
    found = cell(trained, "table1", "LoHa", "MathQA")
    assert found["ours"]["mean"] is None and found["difference"] is None
    assert found["ours"]["gap"] == "the preset leaves out loha on mathqa"
    text = (trained / "table1.md").read_text()
    assert "19.46 / gap |" in text and "- the preset leaves out loha on mathqa" in text


def test_answers_that_cannot_be_read_are_an_x(trained):
    """The random model writes two bytes: hardly ever a number."""
    found = cell(trained, "table1", "ResLoRA_is", "SVAMP")
    share = result(trained, "svamp-reslora_is-*")["results"]["merged: weights"]["unreadable"]
    assert share > 0.5 and found["ours"]["x"] and found["ours"]["mean"] is None and found["difference"] is None
    assert "58.33 / X |" in (trained / "table1.md").read_text()


def test_the_rate_is_the_one_whose_kept_rows_have_the_lowest_loss(trained):
    losses = {rate: result(trained, f"svamp-lora-r4-lr{rate}-*")["validation_loss"] for rate in ("0.005", "0.01")}
    best = min(losses, key=losses.__getitem__)
    evaluated = [rate for rate in losses if result(trained, f"svamp-lora-r4-lr{rate}-*")["results"]]
    assert evaluated == [best]


def test_costs_accuracy_by_epoch_losses_and_norms_are_there(trained):
    one = result(trained, "gsm8k-reslora_is-*")
    found = cell(trained, "table8", "ResLoRA_is", "seconds an epoch")
    assert found["ours"]["mean"] == pytest.approx(one["seconds_per_step"] * one["steps_per_epoch"])
    assert cell(trained, "table8", "LoRA", "compared to LoRA, %")["ours"]["mean"] == pytest.approx(100)
    assert cell(trained, "table8", "LoRA", "memory, MB")["ours"]["mean"] > 0
    by_epoch = result(trained, "svamp-reslora_ms-pre4-*")["by_epoch"]
    assert len(by_epoch) == 5
    curve = said(trained, "fig1")["curves"]["ResLoRA_ms"]
    assert curve == [[row["epoch"], pytest.approx(100 * row["accuracy"])] for row in by_epoch]
    assert cell(trained, "table9", "ResLoRA_ms", "epoch 40")["ours"]["by_seed"]
    whole, part = (said(trained, name)["curves"]["-1 (all)"] for name in ("fig6", "fig4"))
    assert len(whole) == 10 and part == whole[:5]
    norms = said(trained, "fig7")["grids"]
    assert {(one["projection"], one["layer"]) for one in norms} == {
        (name, layer) for name in ("q_proj", "v_proj") for layer in (0, 1)
    }
    values = {(one["what"], one["projection"], one["layer"]): one["norm"] for one in norms}
    difference = values["ResLoRA_bs", "v_proj", 1] - values["LoRA", "v_proj", 1]
    assert values["difference", "v_proj", 1] == pytest.approx(difference)


def test_nothing_is_faster_than_a_lora_that_learned_nothing(trained):
    found = {one["row"]: one for one in said(trained, "fig1")["compared"]}
    assert found["ResLoRA_ms"]["times_as_fast"] is None and found["ResLoRA_ms"]["paper"] == [2.5, 14.3]
    assert "| ResLoRA_ms | 2.50 / never | 14.30 / never |" in (trained / "fig1.md").read_text()


def test_pictures_of_both_methods_are_shown_at_the_same_steps(trained):
    found = said(trained, "fig3")
    assert found["steps"] == [0, 1, 2] and found["prompts"] == ["cat face"] and len(found["pictures"]) == 6


def test_nothing_is_trained_twice(trained, monkeypatch, capsys):
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", lambda *_, **__: pytest.fail("trained again"))
    main(["run", "all", "--preset", "smoke", "--output_dir", str(trained)])
    main(["plan", "all", "--preset", "smoke", "--output_dir", str(trained)])
    text = capsys.readouterr().out
    assert "trainings (" in text and "missing" not in text.split("steps. Memory")[0].splitlines()[-1]
    line = next(one for one in text.splitlines() if one.startswith("svamp-reslora_bs-pre4"))
    assert ": done; 10 steps, about " in line
    assert line.endswith("for table1, table4, table9, fig1, fig4, fig5, fig6, fig7")


def test_a_run_that_lost_its_result_is_a_gap_and_a_damaged_one_is_too(trained, monkeypatch):
    monkeypatch.setattr("reslora_sd.paper.rendering._plot", lambda *_: None)
    (run,) = trained.glob("runs/svamp-lokr-*")
    whole = (run / "results.json").read_text()
    for text in ("", "{", '{"results": 3}', '{"results": {"unmerged": {"accuracy": "high", "unreadable": null}}}'):
        (run / "results.json").write_text(text)
        main(["render", "table1", "--preset", "smoke", "--output_dir", str(trained)])
        found = cell(trained, "table1", "LoKr", "SVAMP")["ours"]
        assert found["mean"] is None and found["gap"].startswith("lokr on svamp: seed 42")
    (run / "results.json").write_text(whole)
