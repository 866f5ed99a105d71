"""Grids of Try it: their axes and bounds, how they are put together and saved; and which LoRA files they can draw."""

import io
import json
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageSequence

from app import lora_folder, try_plan
from app.draw_request import DrawRequest
from app.keeping import Kept
from app.library import Library
from app.tabs import try_grid
from app.tabs.shared import Page
from app.try_plan import Cell, GridPlan, numbers, saved, sheet

COMMON = DrawRequest("any", steps=3, guidance=4.0)
FIELDS: dict[str, Any] = {
    "x": "strength",
    "y": "run",
    "z": "nothing",
    "strengths": (0.5, 1.0),
    "seeds": (42,),
    "prompts": ("red apple",),
    "runs": ("lora", "reslora_is"),
}


def plan(**changes: Any) -> GridPlan:
    return GridPlan(**{**FIELDS, **changes})


def test_every_picture_is_drawn_once_and_base_comes_first():
    cells = plan().cells
    assert cells[0] == Cell("base", 1.0, 42, "red apple", is_base=True) and len(cells) == 5
    assert cells[1:3] == [Cell("lora", 0.5, 42, "red apple"), Cell("lora", 1.0, 42, "red apple")]
    three = plan(x="seed", y="prompt", z="run", strengths=(1.0,), seeds=(1, 2), prompts=("a", "b"))
    assert len(three.cells) == 4 + 8  # base once for each seed and prompt
    request = three.cells[-1].request(COMMON)
    assert (request.prompt, request.seed, request.steps) == ("b", 2, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y": "strength"}, "Each must be another of"),
        ({"x": "steps"}, "Each must be another of"),
        ({"seeds": (1, 2)}, "2 values of seed, and no axis"),
        ({"strengths": tuple(number / 10 for number in range(13))}, "13 values of strength. There may be 12"),
        ({"z": "seed", "seeds": tuple(range(12)), "strengths": (0.1, 0.2, 0.3)}, "84 pictures. It may have 64"),
        ({"runs": ()}, "no run. Tick a run"),
        ({"prompts": ()}, "no prompt. Type one"),
        ({"strengths": (3.0,)}, "strength is 3.0"),
        ({"prompts": ("x" * 1001,)}, "1001 letters"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_is_drawn(changes, said):
    with pytest.raises(ValueError, match=said):
        plan(**changes)


def test_fields_of_numbers_are_read_and_what_is_none_is_told():
    assert numbers("0.5, 1 1,2", float, "Strengths") == (0.5, 1.0, 2.0)
    for text in ("one", "nan", "inf"):
        with pytest.raises(ValueError, match="The field Strengths holds"):
            numbers(text, float, "Strengths")


def colours(asked: GridPlan) -> try_plan.Pictures:
    return {cell: Image.new("RGB", (16, 16), (place, 200, 0)) for place, cell in enumerate(asked.cells)}


def test_pictures_stand_where_their_row_and_column_are_and_a_reason_where_there_is_none():
    asked = plan()
    pictures = colours(asked)
    pictures[Cell("reslora_is", 1.0, 42, "red apple")] = "no checkpoint"
    image = sheet(asked, pictures)

    def at(row: int, column: int) -> Any:
        return image.getpixel((170 + column * 196 + 96, 34 + row * 196 + 180))

    assert [at(0, column) for column in range(3)] == [(0, 200, 0), (1, 200, 0), (2, 200, 0)]
    assert [at(1, column) for column in range(3)] == [(0, 200, 0), (3, 200, 0), (231, 229, 228)]
    assert sheet(asked, {}).size == image.size  # what isn't drawn yet keeps its place


@pytest.mark.parametrize("axis", ["seed", "prompt"])
def test_where_columns_change_what_base_draws_base_has_a_row(axis):
    more: dict[str, Any] = {"seeds": (1, 2)} if axis == "seed" else {"prompts": ("a", "b")}
    asked = plan(x=axis, strengths=(1.0,), **more)
    image = sheet(asked, colours(asked))
    base = [image.getpixel((170 + column * 196 + 96, 34 + 96)) for column in range(2)]
    assert base == [(0, 200, 0), (1, 200, 0)]


def test_a_saved_grid_has_its_settings_in_it_and_moves_as_gif_and_webp():
    asked = plan(prompts=("\N{SNOWMAN}",), step=40)
    with Image.open(io.BytesIO(saved(asked, colours(asked), COMMON, "PNG"))) as image:
        about = json.loads(image.info["parameters"])
    assert about["prompts"] == ["\N{SNOWMAN}"] and about["strengths"] == [0.5, 1.0] and about["guidance"] == 4.0
    assert about["step"] == 40
    for form in ("GIF", "WebP"):
        with Image.open(io.BytesIO(saved(asked, colours(asked), COMMON, form))) as image:
            assert image.format == form.upper() and len(list(ImageSequence.Iterator(image))) == 2
    with pytest.raises(ValueError, match="The form is 'BMP'"):
        saved(asked, {}, COMMON, "BMP")


def test_lora_files_are_found_below_their_folder_and_nowhere_else(tmp_path):
    folder, outside = tmp_path / "loras", tmp_path / "secret.safetensors"
    (folder / "style" / "peft").mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"x")
    (folder / "style" / "peft" / "adapter_config.json").write_text("{}")
    (folder / "style" / "b.safetensors").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    outside.write_bytes(b"x")
    (folder / "link.safetensors").symlink_to(outside)
    assert lora_folder.lora_files(folder) == ["a.safetensors", "link.safetensors", "style/b.safetensors", "style/peft"]
    assert lora_folder.find_lora(folder, "style/b.safetensors") == folder / "style" / "b.safetensors"
    for name, said in (
        ("link.safetensors", "leads elsewhere"),
        ("../secret.safetensors", "no LoRA"),
        ("notes.txt", "no LoRA"),
    ):
        with pytest.raises(ValueError, match=said):
            lora_folder.find_lora(folder, name)
    assert lora_folder.lora_files(None) == [] and lora_folder.lora_files(tmp_path / "nowhere") == []


def test_a_lora_file_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"x" * 10)
    monkeypatch.setattr(lora_folder, "MOST_BYTES", 9)
    with pytest.raises(ValueError, match="It may have"):
        lora_folder.find_lora(tmp_path, "a.safetensors")


def test_a_run_called_base_is_a_run_and_one_without_the_chosen_checkpoint_says_so(made_up, tmp_path, monkeypatch):
    library = Library([made_up])
    library.keep("lora", Kept("base"))
    page = Page(library, tmp_path / "cache", tmp_path / "here")
    drawn: list[int] = []

    def draw_adapted(run: Any, step: int, job: Any) -> tuple[str, str]:
        drawn.append(step)
        return "run", "merged"

    generator = SimpleNamespace(draw_base=lambda run, job: "base model", draw_adapted=draw_adapted)
    monkeypatch.setattr(page, "generator", lambda: generator)
    runs = {"base": replace(page.runs(["base"])["base"], checkpoints=[10, 20])}
    asked = plan(runs=("base",), strengths=(1.0,))

    def texts(step):
        job = try_grid._Job(page, runs, step, COMMON, threading.Event())
        return [job.draw(cell, lambda *_: None) for cell in asked.cells]

    assert texts(20) == ["base model", "run"] and drawn == [20]
    assert texts(15) == ["base model", "no checkpoint of step 15; it has: 10, 20"] and drawn == [20]


def test_each_row_that_changes_what_base_draws_has_bases_pictures_above_it():
    asked = plan(x="seed", y="prompt", runs=("lora",), strengths=(1.0,), seeds=(1, 2), prompts=("a", "b"))
    pictures, image = colours(asked), sheet(asked, colours(asked))
    shown = [[image.getpixel((170 + column * 196 + 96, 34 + row * 196 + 96)) for column in (0, 1)] for row in range(4)]
    want = [[asked.cell(seed, prompt, "") for seed in (1, 2)] for prompt in ("a", "b")]
    rows = [row for cells in want for row in ([cell.base for cell in cells], cells)]
    assert shown == [[pictures[cell].getpixel((0, 0)) for cell in row] for row in rows]  # type: ignore[union-attr]
