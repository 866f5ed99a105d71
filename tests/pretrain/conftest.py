"""Generated drawings and one finished pretraining of tiny settings, which the tests of this folder share."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw

from tests.scripts import load_script

COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("circle", "box", "cross")


def drawing(colour: str, shape: str, inset: int) -> bytes:
    picture = Image.new("RGB", (32, 32), "white")
    pen, box = ImageDraw.Draw(picture), (inset, inset, 31 - inset, 31 - inset)
    if shape == "circle":
        pen.ellipse(box, fill=colour, outline="black")
    elif shape == "box":
        pen.rectangle(box, fill=colour, outline="black")
    else:
        pen.line(box, fill=colour, width=4)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_parquet(folder: Path) -> Path:
    """Two training sets of twelve names, one of which runs into the border, and an unseen one."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, inset in (("plain", 6), ("wide", 0), ("openmoji", 4)):
        rows = [
            {
                "image": {"bytes": drawing(colour, shape, inset), "path": None},
                "text": f"{colour} {shape}",
                "codepoint": f"1F{i}{j}",
                "set": group,
            }
            for i, colour in enumerate(COLOURS)
            for j, shape in enumerate(SHAPES)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{group}.parquet")
    return folder


def tiny_arguments(data: Path, output: Path, *more: str) -> list[str]:
    text = (
        f"--data_dir {data} --output_dir {output} --size 32 --vae_channels 8 8 16 --unet_channels 16 32 "
        "--unet_layers 1 --text_width 32 --text_layers 1 --tokens 8 --vocabulary 560 --vae_steps 4 "
        "--unet_steps 4 --vae_batch_size 4 --unet_batch_size 4 --workers 2 --synthetic_drawings 0 "
        "--save_every 2 --log_every 1 --left_out_names 2 --sample_steps 2 --warmup_steps 1 "
        "--no_bf16 --set_order plain wide --recolourings 2"
    )
    return [*text.split(), "--sample_prompts", "red circle", "blue box", *more]


def pretrain(arguments: list[str]) -> None:
    script = load_script("pretrain_tiny_sd")
    script.main(script.parse_settings(arguments))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    pretrain(tiny_arguments(data, output))
    return output
