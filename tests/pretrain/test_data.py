"""Drawings: reading, splitting, margins, and what is refused."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from reslora_sd.pretrain import data as pretrain_data


def test_parquet_and_imagefolder_give_the_same_drawings(data: Path, tmp_path: Path) -> None:
    rows = pyarrow.parquet.read_table(data / "plain.parquet").to_pylist()
    lines = []
    for row in rows:
        (tmp_path / f"{row['text']}.png").write_bytes(row["image"]["bytes"])
        lines.append(json.dumps({"file_name": f"{row['text']}.png", "text": row["text"]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    from_folder = pretrain_data.load_drawings(tmp_path, 32)
    from_parquet = pretrain_data.load_drawings(data, 32, only_sets=["plain"])
    assert torch.equal(from_folder.pictures, from_parquet.pictures)
    assert from_folder.captions == from_parquet.captions


def test_left_out_sets_are_not_read(data: Path) -> None:
    drawings = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    assert set(drawings.sets) == {"plain", "wide"} and len(drawings) == 24


def test_no_name_is_on_both_sides_of_the_split(data: Path) -> None:
    inside, outside = pretrain_data.split_by_name(pretrain_data.load_drawings(data, 32), 3)
    assert not set(inside.names) & set(outside.names)
    assert len(set(outside.names)) == 3 and len(outside) == 9


def test_drawings_that_fill_the_canvas_get_a_white_margin_and_others_stay(data: Path) -> None:
    before = pretrain_data.load_drawings(data, 32, leave_out_sets=["openmoji"])
    after = pretrain_data.with_white_margin(before)
    assert pretrain_data.border_level(after.pictures).min() == 255
    plain = torch.tensor([group == "plain" for group in before.sets])
    assert torch.equal(after.pictures[plain], before.pictures[plain])
    inside = after.pictures[~plain][:, :, 2:-2, 2:-2]  # 6 % of 32 pixels
    for small, picture in zip(inside, before.pictures[~plain], strict=True):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((28, 28), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert (small.int() - expected.int()).abs().float().mean() < 1  # Pillow rounds between its two passes


def test_bad_data_folders_are_refused_with_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*missing"):
        pretrain_data.load_drawings(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no metadata\.jsonl"):
        pretrain_data.load_drawings(tmp_path)
    with pytest.raises(ValueError, match=r"no set \['nobody'\]"):
        pretrain_data.load_drawings(data, only_sets=["nobody"])
    with pytest.raises(ValueError, match="Leave out fewer sets"):
        pretrain_data.load_drawings(data, leave_out_sets=["plain", "wide", "openmoji"])
    table = pyarrow.Table.from_pylist([{"painting": b"", "text": "x"}])
    pyarrow.parquet.write_table(table, tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match="Rename one to 'image'"):
        pretrain_data.load_drawings(tmp_path)
    (tmp_path / "wrong.parquet").unlink()
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in ("1.png", "1.txt"):
            (tmp_path / name).write_text("a circle")
            archive.add(tmp_path / name, name)
            (tmp_path / name).unlink()
    for source in (tmp_path, tmp_path / "0.tar"):
        with pytest.raises(ValueError, match=f"pictures of {source} lie in tar files.*Unpack"):
            pretrain_data.load_drawings(source)
    (tmp_path / "0.tar").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\nnowhere.png,a cat\n")
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        pretrain_data.load_drawings(tmp_path)
