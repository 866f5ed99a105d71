"""Items: the paper's own figures, and the trainings that cells need."""

import pytest

from reslora_sd.paper.items import GENERATION, Need, all_items, chosen, family_of, needs_of
from reslora_sd.text.glue import GLUE_TASKS
from reslora_sd.text.tasks import GENERATION_TASKS


def cells(name):
    return {(all_items()[name].rows[c.row], all_items()[name].columns[c.column]): c for c in all_items()[name].cells}


def test_every_table_and_figure_with_results_is_there():
    tables = {f"table{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9)}
    assert set(all_items()) == tables | {f"fig{n}" for n in (1, 3, 4, 5, 6, 7)}


@pytest.mark.parametrize(
    ("item", "row", "column", "figure"),
    [
        ("table1", "LoRA, r = 16", "MathQA", 30.32),
        ("table1", "AdaLoRA", "HellaSwag", "X"),
        ("table1", "ResLoRA_ms", "HellaSwag", 88.21),
        ("table2", "ResLoRA_is", "MRPC (F1)", 92.39),
        ("table2", "LoKr", "STS-B (Pearson)", 83.35),
        ("table3", "merge_bi (input)", "ms, GSM8K", 24.64),
        ("table4", "5", "bs, GSM8K", 32.98),
        ("table6", "w/o merge", "HellaSwag", 67.20),
        ("table7", "merge_bw (weights)", "GSM8K", 18.35),
        ("table9", "ResLoRA_ms", "epoch 20", 59.67),
        ("table1", "ResLoRA_is, least squares (ours)", "GSM8K", None),
    ],
)
def test_the_papers_figures_stand_in_their_cells(item, row, column, figure):
    assert cells(item)[row, column].paper == figure


def test_the_papers_hours_are_seconds():
    hours = {"LoRA": 0.233, "ResLoRA_is": 0.250, "ResLoRA_bs, 4": 0.417, "ResLoRA_ms, 1": 0.300}
    found = {row: cells("table8")[row, "seconds an epoch"].paper for row in hours}
    assert found == {row: pytest.approx(3600 * value) for row, value in hours.items()}


def test_what_appendix_c_reports_is_measured():
    forms = {row: cell.form for (row, column), cell in cells("table1").items() if column == "SVAMP"}
    assert forms["ResLoRA_is"] == "merged: weights" and forms["ResLoRA_ms"] == "merged: input"
    assert forms["ResLoRA_bs"] == "merged: exact" and forms["LoHa"] == "unmerged"
    assert {cell.form for (_, column), cell in cells("table4").items() if column.startswith("ms")} == {"unmerged"}


def test_items_share_trainings():
    shared = needs_of(chosen(["all"]))
    assert shared[Need("svamp", "lora")] == "table1 table3 table4 table6 table7 table9 fig1 fig4 fig5 fig6 fig7".split()
    assert Need("svamp", "reslora_bs") == Need("svamp", "reslora_bs", pre_num=4)
    assert Need("svamp", "lora", pre_num=4) == Need("svamp", "lora")
    assert Need("gsm8k", "reslora_bs", pre_num=1).chooses == Need("gsm8k", "reslora_bs")


def test_tasks_and_metrics_are_those_of_the_scripts():
    assert set(GENERATION) == set(GENERATION_TASKS)
    for cell in all_items()["table2"].cells:
        task = GLUE_TASKS[cell.need.task]
        labels = [0.0, 1.0, 2.0] if task.is_regression else [0, 1, 1]
        assert cell.metric == next(iter(task.metrics(labels, labels)))
    assert [family_of(task) for task in ("svamp", "rte", "pictures")] == ["nlg", "nlu", "pictures"]


def test_an_unknown_item_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no item 'table5'\. Items are all, table1"):
        chosen(["table1", "table5"])
    assert [item.name for item in chosen(["fig4", "table1", "fig4"])] == ["fig4", "table1"]
