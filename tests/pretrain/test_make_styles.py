"""The styles' filter, which names train, and a style made from a given folder of drawings."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageChops, ImageDraw

from reslora_sd.assets import STYLES_FOLDER
from reslora_sd.pretrain import make_styles
from reslora_sd.pretrain.data import load_drawings
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.names import DEFAULT_PROMPTS, STYLES

STYLE = make_styles.Style(paper=(0, 0, 80), ramp=((0, (100, 0, 0)), (1, (100, 200, 0))))


def ring() -> Image.Image:
    """A black ring around white, on white."""
    drawing = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(drawing).ellipse((8, 8, 55, 55), outline="black", width=10)
    return drawing


def differ(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel."""
    return max(ImageChops.difference(one.convert("RGB"), other.convert("RGB")).tobytes())


def near(picture: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    x, y = place
    return differ(picture.crop((x, y, x + 1, y + 1)), Image.new("RGB", (1, 1), colour)) <= 2


def test_lightness_becomes_colour_inside_the_shape_and_paper_around_it() -> None:
    picture = make_styles.restyle(ring(), STYLE)
    assert picture.size == (64, 64)
    assert near(picture, (2, 2), (0, 0, 80)) and near(picture, (32, 12), (100, 0, 0))
    assert near(picture, (32, 32), (100, 200, 0)), "the white that a shape encloses belongs to it"


def write_drawings(folder: Path, names: list[str]) -> Path:
    rows = []
    for number, name in enumerate(names):
        drawing = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(drawing).rectangle((6, 6, 20, 8 + number), (10 * number, 80, 120))
        file = io.BytesIO()
        drawing.save(file, "PNG")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "text": name})
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "fluent.parquet")
    return folder


def test_the_same_drawings_give_the_same_files(tmp_path: Path) -> None:
    names = ["kite", "man walking", "red apple", "moose", "yarn", "sled"]
    data = write_drawings(tmp_path / "data", names)
    for output in ("one", "two"):
        flags = ["--data_dir", str(data), "--output_dir", str(tmp_path / output), "--pictures", "2", "--size", "16"]
        make_styles.main(make_styles.parse_settings(flags))
    homes = (tmp_path / "one", tmp_path / "two")
    one, two = ({path.relative_to(home): path.read_bytes() for path in home.rglob("*.*")} for home in homes)
    assert one == two and len(one) == 2 * 3 * len(STYLES)
    style = tmp_path / "one" / STYLES[0]
    captions = [row["text"] for part in ("unseen", "train") for row in read_jsonl(style / part / "metadata.jsonl")]
    assert captions[0] == "red apple" and len({*captions}) == 4 and {*captions} <= {*names} - {"man walking"}
    drawings = load_drawings(data, 16)
    apple = Image.fromarray(drawings.pictures[names.index("red apple")].permute(1, 2, 0).numpy())
    wanted = make_styles.restyle(apple, make_styles.FILTERS[STYLES[0]])
    with Image.open(style / "unseen" / "00.png") as written:
        assert differ(written, wanted) <= 8


def test_too_few_names_are_told() -> None:
    with pytest.raises(ValueError, match=r"drawings of 2 names, but --pictures 2 needs 4. Lower --pictures"):
        make_styles.pick_names(["sled", "kite", "two men", "sled"], 2, 0)


def test_the_folder_of_drawings_must_be_given() -> None:
    with pytest.raises(ValueError, match="--data_dir is missing"):
        make_styles.parse_settings([])


def test_the_default_prompts_are_never_trained() -> None:
    names = [*DEFAULT_PROMPTS, *(f"thing {number}" for number in range(200))]
    trained, unseen = make_styles.pick_names(names, 60, seed=3)
    assert unseen[: len(DEFAULT_PROMPTS)] == list(range(len(DEFAULT_PROMPTS)))
    assert len({*trained, *unseen}) == 120


def test_every_embedded_style_has_its_filter() -> None:
    assert {*STYLES} == {*make_styles.FILTERS}


def test_the_embedded_styles_come_from_the_real_drawings() -> None:
    home = os.environ.get("RESLORA_SHARED_DATA")
    if not home:
        pytest.skip("RESLORA_SHARED_DATA names no folder of data")
    drawings = load_drawings(Path(home) / "emoji" / "fluent.parquet")
    _, unseen = make_styles.pick_names(drawings.captions, 60, 0)
    for style in STYLES:
        made = make_styles.restyle(
            Image.fromarray(drawings.pictures[unseen[0]].permute(1, 2, 0).numpy()), make_styles.FILTERS[style]
        )
        with Image.open(STYLES_FOLDER / style / "unseen" / "00.png") as kept:
            few = made.quantize(128, dither=Image.Dither.NONE)  # as they are kept
            assert differ(kept, few) <= 8
