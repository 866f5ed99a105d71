"""The runs of the page by their names, and when they are read again."""

import json
import os
import shutil
import sys
from typing import Any

import pytest

from app import adapter_view, curves, pictures
from app.keeping import Kept
from app.library import Library, key_of
from app.lora_folder import left_out, lora_files
from app.synthetic import make_run
from app.tabs import runs as runs_tab
from app.tabs.shared import Page, warnings_and_notes
from reslora_sd.runs.reader import find_runs, read_run


def test_a_real_run_is_read_without_a_note(real_runs):
    for method, path in real_runs.items():
        run = read_run(path)
        assert (run.method, run.state, run.last_step, run.notes) == (method, "finished", 4, [])
        assert run.checkpoints == [2, 4] and "red apple" in run.references
        assert {"loss", "grad_norm", "seconds", "memory"} <= run.log[0].keys() and "validation_loss" in run.log[-1]


def test_runs_are_found_below_a_folder_and_named_by_method(made_up_pair, tmp_path):
    assert find_runs(tmp_path) == sorted(made_up_pair)
    make_run(tmp_path / "again" / "second", "lora", steps=3, every=3, prompts=("x",), side=8)
    names = Library([tmp_path]).names()
    assert set(names) == {"LoRA, second", "LoRA, lora", "ResLoRA (input)"}
    assert names["LoRA, second"] == tmp_path / "again" / "second"


def test_a_run_is_read_again_only_when_its_files_change(made_up):
    library = Library([made_up])
    before = library.get(["LoRA"])["LoRA"]
    assert library.get(["LoRA"])["LoRA"] is before
    state = library.state()
    with (made_up / "log.jsonl").open("a") as file:
        file.write('{"step": 21, "loss": 0.4}\n')
    assert library.state() != state
    assert library.get(["LoRA"])["LoRA"].last_step == 21


def test_a_text_run_is_shown_without_pictures_and_without_a_merge_report(made_up, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    settings: dict[str, Any] = {
        "method": "adalora",
        "arguments": {"max_steps": 3},
        "link_plan": [],
        "lora_config": None,
    }
    (text / "run.json").write_text(json.dumps(settings))
    (text / "log.jsonl").write_text("".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in (1, 2, 3)))
    (text / "validation").mkdir()
    (text / "validation" / "index.jsonl").write_text("")
    (text / "results.json").write_text(json.dumps({"steps": 3, "results": {"unmerged": {"answer_loss": 1.4}}}))
    library = Library([made_up, text])
    runs = library.get(library.names())
    run = runs["AdaLoRA"]
    assert (run.state, run.last_step, run.steps, run.notes, run.checkpoints) == ("finished", 3, 3, [], [])
    assert pictures.variants({"AdaLoRA": run}) == ["unmerged"] and run.prompts() == []
    assert list(curves.table(runs, "loss", 0)["run"]).count("AdaLoRA") == 3
    assert "text run" in adapter_view.norm_differences(runs["LoRA"], run)[1]
    assert warnings_and_notes(runs) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_utf8_are_left_out_and_told(made_up, tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    shutil.copytree(made_up, tmp_path / odd)
    library = Library([tmp_path])
    assert list(library.names()) == ["LoRA"] and library.left_out == [f"{tmp_path}/caf\\udce9"]
    page = Page(library, tmp_path / "cache", tmp_path / "here")
    assert "no UTF-8" in runs_tab._draw(page)(None, None, "", "name", None, True, "")[0]
    (tmp_path / "loras").mkdir()
    for name in ("a", odd):
        (tmp_path / "loras" / f"{name}.safetensors").write_bytes(b"x")
    assert lora_files(tmp_path / "loras") == ["a.safetensors"]
    assert "caf\\udce9.safetensors" in left_out(tmp_path / "loras")


@pytest.fixture
def same_folders(tmp_path):
    """Three runs of one method, of which two have the same folder's and the same parent's name."""
    made = [make_run(tmp_path / top / "out" / "run", "lora", 3, 3, ("x",), side=8) for top in ("a", "b")]
    return [*made, make_run(tmp_path / "c" / "other", "lora", 3, 3, ("x",), side=8)]


def test_names_hold_no_whole_path(same_folders, tmp_path):
    names = Library(same_folders).names()
    assert list(names) == ["LoRA, out/run", "LoRA, out/run 2", "LoRA, other"] and list(names.values()) == same_folders


def test_addresses_of_earlier_versions_lead_to_their_runs_wherever_pins_are(same_folders):
    library = Library(same_folders)
    first, second, third = map(key_of, same_folders)
    library.keep(third, Kept(pinned=True))
    older = {"lora": first, "lora (out/run)": first, f"lora ({same_folders[1]})": second}
    older["lora (c/other)"] = third
    assert {text: library.key(text) for text in older} == older
    library.keep(first, Kept("mine"))
    assert library.key("lora") == second
    assert library.key("") is None and library.key(None) is None and library.key("nobody") is None


def test_a_name_that_is_another_runs_key_changes_nothing_for_that_run(same_folders):
    library = Library(same_folders)
    first, second, _ = map(key_of, same_folders)
    with pytest.raises(ValueError, match="Another run is called"):
        library.keep(first, Kept(second))
    (same_folders[0] / "page.json").write_text(json.dumps({"title": second}))  # by hand
    assert library.key(second) == second and library.find(second) == same_folders[1]
    assert [run.path for run in library.get([second]).values()] == [same_folders[1]]
    assert [run.path for run in library.get([first]).values()] == [same_folders[0]]


def test_keys_are_found_with_one_look_at_the_folders(made_up_pair, monkeypatch):
    library = Library(made_up_pair)
    looks: list[object] = []

    def look(folder):
        looks.append(folder)
        return find_runs(folder)

    monkeypatch.setattr("app.library.find_runs", look)
    asked = {"lora": key_of(made_up_pair[0]), "ResLoRA (input)": key_of(made_up_pair[1])}
    assert library.keys_of([*asked, None, "", "nobody"]) == asked and len(looks) == len(made_up_pair)
    for ask in (library.key, library.find):
        looks.clear()
        assert ask("lora") is not None and len(looks) == len(made_up_pair)
