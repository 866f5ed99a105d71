"""Text runs on the page: figures, answers, and that files of strangers do no harm."""

import json
import os
from pathlib import Path

import pytest

from app import adapter_view, blind, drawings, run_card, text_runs
from app.keeping import Kept
from app.library import Library, key_of
from app.seeds import Group, groups
from app.selection import Asked
from app.synthetic import make_text_run
from app.tabs import text
from app.tabs.card_html import card
from app.tabs.shared import Page
from app.tabs.text_html import question_list, results_table
from app.tabs.try_grid import _first_that_draws
from app.wording import MERGED
from reslora_sd.runs.reader import read_run
from reslora_sd.runs.run import Run


@pytest.fixture
def folders(tmp_path):
    made = [("lora", 1), ("reslora_is", 1), ("reslora_is", 2)]
    return [make_text_run(tmp_path / f"{method}-{seed}", method, seed) for method, seed in made]


@pytest.fixture
def runs(folders):
    return {path.name: read_run(path) for path in folders}


@pytest.fixture
def page(folders, made_up, tmp_path):
    return Page(Library([*folders, made_up]), tmp_path / "cache", tmp_path / "here")


def test_figures_of_every_form_are_a_row_each_and_seeds_a_mean_with_its_spread(runs):
    found = text_runs.figures_by_form(groups(runs))
    assert [(name, form) for name, form, _ in found][3:] == [
        ("ResLoRA (input)", form) for form in ("base", "unmerged", "merged: least_squares")
    ]
    assert found[4][2]["accuracy"] == pytest.approx([0.101, 0.102])
    shown = results_table(groups(runs))
    assert "0.1015 (0.1010 to 0.1020)" in shown and "mean of 2 seeds (1, 2), in brackets from" in shown
    assert '<span title="merged: least_squares">merged by least squares</span>' in shown


def test_what_was_measured_by_epoch_and_while_training_is_a_curve(runs):
    found = text_runs.by_epoch(groups(runs, together=False))
    assert list(found) == ["accuracy, by epoch", "loss of rows kept apart, by step"]
    lines = found["accuracy, by epoch"]
    assert [line.name for line in lines] == list(runs) and lines[0].steps == [1, 2]


def test_questions_are_searched_and_sorted_out_by_who_is_right(runs):
    assert text_runs.forms(runs)[:3] == ["unmerged", MERGED, "base"]
    assert len(text_runs.chosen(runs, "unmerged", "", text_runs.KINDS[0])) == 25
    wrong, right = (len(text_runs.chosen(runs, MERGED, "", kind)) for kind in text_runs.KINDS[2:])
    assert (wrong, right) == (9, 16) and not text_runs.chosen(runs, MERGED, "", text_runs.KINDS[1])
    (one,) = text_runs.chosen(runs, "unmerged", "HAS 25", text_runs.KINDS[0])
    assert one.target == "25" and set(one.said) == set(runs)
    shown = question_list([one], runs, MERGED, 25)
    assert shown.count('class="mark wrong"') == 3 and "<b>Ann" not in shown and "&lt;b&gt;Ann" in shown
    assert "merged exactly" in shown and "merged by least squares" in shown


def test_answers_of_earlier_versions_get_prompt_and_mark_from_their_task(tmp_path):
    folder = make_text_run(tmp_path / "old")
    row = {"Body": "Tom has 3 pens", "Question": "How many?", "Equation": "( 1.0 + 2.0 )", "Answer": "3"}
    lines = [{"row": row, "answers": {"base": None, "unmerged": " 3"}}, {"row": {"x": 1}, "answers": {"base": "?"}}]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = text_runs.answers(read_run(folder))
    assert first.prompt == "Question: Tom has 3 pens. How many?\nAnswer:" and first.target == "(1 + 2) = 3"
    assert first.right == {"base": False, "unmerged": True}
    assert (second.prompt, second.right) == ('{"x": 1}', {})


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"answers": 3}', '{"answers": {"unmerged": {"a": 1}}, "right": {"unmerged": "yes"}, "prompt": 5}'],
)
def test_answers_that_are_none_are_left_out_or_shown_empty(tmp_path, line):
    folder = make_text_run(tmp_path / "odd")
    (folder / "answers.jsonl").write_text(line + "\n")
    runs = {"odd": read_run(folder)}
    for form in text_runs.forms(runs):
        assert "<script" not in question_list(text_runs.chosen(runs, form, "x", "all"), runs, form, 1)
    runs["odd"].results.update(results={"a": 3, "b": {"c": "d"}}, by_epoch=[3, {"epoch": -1}], evaluations="x")
    assert not text_runs.by_epoch(groups(runs)) and "<td>b</td>" in results_table(groups(runs))
    adapter_view.end_table(runs["odd"])


def test_a_link_out_of_the_run_or_a_pipe_is_no_file_of_answers(tmp_path):
    folder = make_text_run(tmp_path / "run")
    (folder / "answers.jsonl").rename(tmp_path / "secret")
    (folder / "answers.jsonl").symlink_to(tmp_path / "secret")
    assert text_runs.answers(read_run(folder)) == ()
    (folder / "answers.jsonl").unlink()
    os.mkfifo(folder / "answers.jsonl")
    assert text_runs.answers(read_run(folder)) == ()


def test_the_tab_turns_pages_and_says_what_is_missing(page, folders, made_up):
    keys = [key_of(path) for path in folders]
    form, said, _, first = text._answers(page, 1)(keys, None, "all", "", 10)
    assert form.value == "unmerged" and "21 to 25 of 25 questions" in said and first == 20
    assert text._answers(page, -1)(keys, "unmerged", "all", "", 0)[3] == 0
    assert "No question matches" in text._answers(page, 0)(keys, "unmerged", "all", "nowhere", 20)[1]
    assert "No ticked run is a text run" in text._draw(page)("each run", [key_of(made_up)], None, "all", "", 0)[0]
    table, curves, *_ = text._draw(page)("mean over seeds", keys, None, "all", "", 0)
    assert "2 seeds" in table and curves.count("<figure") == 2


def test_text_runs_and_runs_of_pictures_are_shown_together(page, folders, made_up):
    keys = [key_of(path) for path in (*folders, made_up)]
    shown = page.visits.manifest(page.visits.select(Asked(tuple(keys), keys[0], keys[1], "rocket", 42, "unmerged")))
    first, *_, last = shown["rows"]
    assert "see the tab Text" in first["missing"] and not any(first["files"])
    assert shown["steps"][0] == 5 and last["files"][0].endswith("step-000005/unmerged-01-42.png")
    assert "see the tab Text" in page.visits.manifest(page.visits.select(Asked(tuple(keys[:2]))))["why"]
    text_run = read_run(folders[1])
    assert "A text run" in card("mine", text_run, page.library.kept(folders[1])) and page.drawing(keys[:3]) == {}
    assert list(adapter_view.end_table(text_run)["model"]) == [
        "base model",
        "as trained",
        "merged by least squares (exported)",
    ]
    assert drawings.heat_map(("a", read_run(folders[0])), ("b", text_run))[0]
    with pytest.raises(ValueError, match="share 0 pictures"):
        blind.make_test({"a": text_run, "b": read_run(made_up)}, ["a", "b"], 1)


def test_a_mean_says_of_how_many_seeds_it_is(runs):
    one, two = runs["reslora_is-1"], runs["reslora_is-2"]
    two.results["results"]["unmerged"].pop("accuracy")
    shown = results_table(groups(runs))
    assert "mean of 2 seeds (1, 2), in brackets from" in shown and "<td>0.1010, 1 of 2 seeds</td>" in shown
    two.results.clear()
    shown = results_table(groups(runs))
    assert "ResLoRA (input): 1 of 2 seeds (1), the others don&#x27;t have it" in shown and "mean of" not in shown
    one.results.clear()
    assert "ResLoRA (input)" not in results_table(groups(runs))


def test_the_name_of_a_group_is_left_as_it_is():
    pair = [Run(Path(f"{seed}"), results={"results": {"base": {"loss": 1.0}}}) for seed in (1, 2)]
    assert "husband: mean of 2 seeds (), in brackets" in results_table([Group("husband", tuple(pair))])


def test_what_is_left_out_of_the_answers_is_told(page, folders, monkeypatch):
    file = folders[0] / "answers.jsonl"
    file.write_text("{\n" * 5 + '{"answers": 3}\n' + file.read_text())
    keys = [key_of(folders[0])]
    said = text._answers(page, 0)(keys, "unmerged", "all", "", 0)[1]
    assert "1 to 10 of 25 questions" in said and "answers.jsonl, line 1 is broken" in said and "2 more notes" in said
    assert "1 rows of answers.jsonl hold no answers" in said
    monkeypatch.setattr(text_runs, "MOST_ROWS", 7)
    keys = [key_of(folders[1])]
    said = text._answers(page, 0)(keys, "unmerged", "all", "", 0)[1]
    assert "1 to 7 of 7 questions" in said and "more rows than the first 7, which are shown" in said
    (folders[2] / "answers.jsonl").write_text("[]\n")
    said = text._answers(page, 0)([key_of(folders[2])], "unmerged", "all", "", 0)[1]
    assert "line 1 is broken" in said and "has kept answers" not in said


def test_runs_whose_answers_are_too_many_are_named_and_not_read(page, folders, monkeypatch):
    keys = [key_of(path) for path in folders]
    read: list[str] = []
    whole = text_runs._read

    def told(path, task):
        read.append(path.parent.name)
        return whole(path, task)

    monkeypatch.setattr(text_runs, "_read", told)
    monkeypatch.setattr(text, "_MOST_RUNS", 1)
    said = text._answers(page, 0)(keys, None, "all", "", 0)[1]
    assert "left out are ResLoRA (input), reslora_is-1, ResLoRA (input), reslora_is-2" in said and read == ["lora-1"]
    text._answers(page, 0)(keys, None, "all", "x", 0)
    assert len(read) == 1
    monkeypatch.setattr(text, "_MOST_RUNS", 6)
    monkeypatch.setattr(text_runs, "MOST_BYTES", (folders[0] / "answers.jsonl").stat().st_size + 5)
    assert "left out are" in text._answers(page, 0)(keys, None, "all", "", 0)[1] and len(read) == 1


def test_forms_are_those_of_all_rows(tmp_path):
    folder = make_text_run(tmp_path / "run", rows=0)
    lines = [{"prompt": "a", "target": "b", "answers": {"base": "x"}, "row": {}}]
    lines.append({"prompt": "c", "target": "b", "answers": {f"form {place}": "x" for place in range(99)}, "row": {}})
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = text_runs.forms({"run": read_run(folder)})
    assert found[:2] == ["base", "form 0"] and len(found) == 16


@pytest.mark.parametrize("task", ["svamp", "nobody's"])
def test_a_row_that_is_too_deep_to_be_shown_is_empty(task):
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"Body": deep}
    assert text_runs._by_task(task, deep, {"base": "3"}) == ("", "", {})


def test_the_most_figures_by_epoch_are_few_whatever_a_file_has(runs, monkeypatch):
    made, drawn = [], text_runs.bands
    epochs = [{"epoch": epoch, **{f"{epoch} {place}": 1.0 for place in range(12)}} for epoch in range(50)]
    runs["lora-1"].results["by_epoch"] = epochs

    def counted(*values):
        made.append(values)
        return drawn(*values)

    monkeypatch.setattr(text_runs, "bands", counted)
    assert len(text_runs.by_epoch(groups(runs))) == 13 and len(made) == 13


def test_forms_of_results_are_bounded_in_the_adapters_table_too(runs):
    run = runs["lora-1"]
    run.results["results"] = {f"{place:03}" * 99: {"loss": 1.0} for place in range(40)}
    found = adapter_view.end_table(run)
    assert len(found) == 16 and all(len(name) <= 100 for name in found["model"])


def test_the_card_of_a_text_run_names_the_parts_that_are_there(folders):
    run = read_run(folders[0])
    assert "has no peft/" in run_card.parts_of_text(run) and "are in the tab Text" in run_card.parts_of_text(run)
    (folders[0] / "peft").mkdir()
    (folders[0] / "answers.jsonl").unlink()
    said = card("mine", run, Kept())
    assert "A text run. Its LoRA is in peft/" in said and "It has kept no answers." in said


def test_a_text_run_before_others_leaves_the_base_model_to_the_first_that_draws(page, made_up):
    page.library.folders.sort(key=lambda path: path == made_up)
    assert [run.path for run in _first_that_draws(page).values()] == [made_up]
