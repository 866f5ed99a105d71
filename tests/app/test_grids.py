"""The grid of the paper's Fig. 3, and the animation."""

import io

import pytest
from PIL import Image, ImageSequence

from app.grids import animation, chosen_steps, describe, grid
from app.synthetic import make_run
from reslora_sd.runs.reader import read_run


@pytest.fixture
def runs(made_up_pair):
    return {path.name: read_run(path) for path in made_up_pair}


def colours_in(image):
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def test_a_grid_has_a_row_a_method_and_a_column_a_step(runs):
    sheet = grid(runs, ["rocket"], 42, "unmerged", cell=32)
    assert {(step, 60, 42) for step in (5, 10, 15, 20)} <= colours_in(sheet)
    cells = [(x, y) for x in range(sheet.width) for y in range(sheet.height) if sheet.getpixel((x, y)) == (10, 60, 42)]
    assert len(cells) == 2 * 32 * 32  # both methods, at the size that was asked for
    assert len({x for x, _ in cells}) == 32 and len({y for _, y in cells}) == 64


def test_a_missing_picture_leaves_its_cell_empty(runs, made_up_pair):
    (made_up_pair[0] / "validation" / "step-000010" / "unmerged-01-42.png").unlink()
    sheet = grid({path.name: read_run(path) for path in made_up_pair}, ["rocket"], 42, "unmerged", cell=32)
    pixels = [(x, y) for x in range(sheet.width) for y in range(sheet.height)]
    assert sum(sheet.getpixel(pixel) == (10, 60, 42) for pixel in pixels) == 32 * 32


def test_the_first_and_the_last_step_are_always_among_the_columns():
    assert chosen_steps([0, 10, 20, 30, 40, 50, 57], 3) == [0, 30, 57]
    assert chosen_steps([1, 2], 5) == [1, 2] and chosen_steps([1, 2, 3], 1) == [3] and chosen_steps([], 4) == []


@pytest.mark.parametrize("form", ["GIF", "WebP"])
def test_an_animation_has_a_frame_a_step(runs, form):
    with Image.open(io.BytesIO(animation(runs, ["rocket", "cat face"], 42, "unmerged", form))) as moving:
        assert moving.format == form.upper() and len(ImageSequence.all_frames(moving)) == 4


def test_what_cannot_be_animated_is_told(runs):
    with pytest.raises(ValueError, match="must be one of GIF, WebP"):
        animation(runs, ["rocket"], 42, "unmerged", "MP4")
    with pytest.raises(ValueError, match="no picture to put into motion"):
        animation(runs, ["nothing"], 42, "unmerged")


def test_prompts_of_any_script_and_length_are_drawn(runs):
    def heading(prompt):
        """What stands above the cells, as pixels: whether each is dark."""
        sheet = grid(runs, [prompt], 42, "unmerged", cell=16)
        band = sheet.convert("L").crop((0, 40, sheet.width, 70))
        return sheet.width, band.point(lambda value: 255 * (value < 128)).tobytes()

    prompts = ["кошка " * 200, "猫", "\n\u202e$x^2$ <b>", "cat"]
    drawn = [heading(prompt) for prompt in prompts]
    assert {width for width, _ in drawn} == {heading("x")[0]}  # a long one is cut, and makes no sheet wider
    assert all(any(pixels) for _, pixels in drawn)
    assert len({pixels for _, pixels in drawn}) == len(prompts)


def test_a_grid_is_told_in_words(runs):
    assert describe(runs, ["rocket"], 42, "unmerged") == (
        'lora and reslora_is side by side at steps 5 to 20, as trained, for "rocket" with seed 42'
    )


def test_a_run_that_never_drew_a_prompt_has_no_row_of_empty_cells(tmp_path):
    prompts = {name: tuple(f"{name} {number}" for number in range(4)) for name in ("lora", "reslora_is")}
    runs = {name: read_run(make_run(tmp_path / name, name, 4, 2, mine, side=8)) for name, mine in prompts.items()}
    sheet = grid(runs, [*prompts["lora"], *prompts["reslora_is"]], 42, "unmerged", cell=16)
    one = grid({"lora": runs["lora"]}, prompts["lora"], 42, "unmerged", cell=16)
    assert sheet.height - 44 == 2 * (one.height - 44)  # 44 of them are the head
