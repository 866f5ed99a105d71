"""Opens a folder of captioned pictures: parquet files, a metadata file, or a text file beside each picture."""

from __future__ import annotations

import csv
import glob
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from .pictures import CAPTIONS_FILE, metadata_rows, read_utf8

logger = logging.getLogger("reslora_sd")

METADATA = (CAPTIONS_FILE, "metadata.csv", "metadata.parquet")
"""What `datasets` reads captions from (its folder_based_builder.py)."""


def open_folder(path: Path, cache_dir: str | None = None) -> Any:
    """The rows of a folder, with pictures that are decoded as they are used.

    Every picture is for training, whatever its name: `datasets` alone would put `test.png` into a test split.

    Args:
        path: one of
            * a parquet file, or a folder of them;
            * pictures and a metadata.jsonl, metadata.csv or metadata.parquet with a column `file_name`;
            * pictures, each with its caption in a text file of the same name (`cat.png`, `cat.txt`), kohya's layout.

    Returns:
        a `datasets.Dataset`.

    Raises:
        FileNotFoundError: the folder, a picture or a caption is not there.
        ValueError: the files can't be read; the message names the line.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Give a folder of pictures, or a parquet file.")
    if tables := parquet_files(path):
        return _load(path, "parquet", [glob.escape(str(table)) for table in tables], cache_dir)
    files = sorted(path.rglob("*"))
    pictures = _pictures(files)
    if metadata := [file for file in files if file.name in METADATA]:
        _check_metadata(path, metadata, pictures)
        return _load(path, "imagefolder", [glob.escape(str(path)) + "/**"], cache_dir)
    return _with_text_files(path, pictures)


def parquet_files(path: Path) -> list[Path]:
    """The parquet files of a folder that hold pictures, or the one that `path` is; sorted."""
    if path.suffix == ".parquet" and path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*.parquet") if file.name not in METADATA)


def _load(path: Path, kind: str, files: list[str], cache_dir: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(kind, data_files={"train": files}, split="train", cache_dir=cache_dir)
    except Exception as error:  # `datasets` raises many kinds, pyarrow's among them; each is about the data here
        raise ValueError(f"The data set {path} can't be read: {root_cause(error)}") from error


def root_cause(error: BaseException) -> BaseException:
    """The first of a chain of errors; the outer ones of `datasets` say only that there was one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _pictures(files: list[Path]) -> list[Path]:
    kinds = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    # macOS leaves "._cat.jpg" about
    return [file for file in files if file.suffix.lower() in kinds and not file.name.startswith(".")]


def _check_metadata(folder: Path, metadata: list[Path], pictures: list[Path]) -> None:
    """Each row has to name a picture that is there; pictures that no row names are told."""
    named = set()
    for table in metadata:
        if table.suffix == ".parquet":
            return  # `datasets` reads it, and tells what is wrong
        for number, file_name in _file_names(table):
            picture = table.parent / file_name
            if not picture.is_file():
                raise FileNotFoundError(f"{table}, line {number}: there is no picture {picture}.")
            named.add(picture.resolve())
    unnamed = [picture for picture in pictures if picture.resolve() not in named]
    if unnamed:
        logger.warning(
            "%d of %d pictures of %s are in no metadata file, such as %s: nothing is trained on them.",
            len(unnamed),
            len(pictures),
            folder,
            unnamed[0].relative_to(folder),
        )


def _file_names(table: Path) -> Iterator[tuple[int, str]]:
    """(line, `file_name`) of each row of a metadata.jsonl or metadata.csv."""
    if table.suffix != ".csv":
        yield from ((number, row["file_name"]) for number, row in metadata_rows(table))
        return
    reader = csv.DictReader(io.StringIO(read_utf8(table), newline=""))
    for row in reader:
        if not row.get("file_name"):
            raise ValueError(f"{table}, line {reader.line_num}: no file_name: {row}")
        yield reader.line_num, row["file_name"]


def _with_text_files(folder: Path, pictures: list[Path]) -> Any:
    texts = [picture.with_suffix(".txt") for picture in pictures]
    missing = [picture for picture, text in zip(pictures, texts, strict=True) if not text.is_file()]
    if len(missing) == len(pictures):
        raise FileNotFoundError(
            f"{folder} has no metadata.jsonl, so its pictures have no captions. Write one line a picture: "
            '{"file_name": "cat.png", "text": "a grey cat"}, or give every picture a text file of its name.'
        )
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(pictures)} pictures of {folder} have no caption. Write that of {missing[0].name} "
            f"into {missing[0].with_suffix('.txt')}."
        )
    import datasets

    captions = [read_utf8(text).strip() for text in texts]
    rows = datasets.Dataset.from_dict({"image": [str(picture) for picture in pictures], "text": captions})
    return rows.cast_column("image", datasets.Image())
