"""Opens a folder of captioned pictures: parquet files, a metadata file, or a text file beside each picture."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any

from .metadata import METADATA, read_metadata
from .pictures import first_line, read_utf8, unreadable_kind
from .shards import open_shards
from .sources import CaptionsFrom
from .survey import Survey

PICTURE_COLUMNS = ("image", "img", "picture")
"""Names of a column with pictures, the first of which counts."""
PLACE = "_place"
"""Column that says where a row's caption stands; for errors only."""
REPEATS = "_repeats"
"""Column that says how often a row is to be met in an epoch, where folders say so."""
_ENDS = {"auto": (".txt", ".caption"), "txt": (".txt",), "caption": (".caption",)}
"""Ends of text files with captions, the first of which counts."""
_PACKED = re.compile(r"\.(tgz|tbz2|txz|zip|tar\.\w+)$", re.IGNORECASE)
"""Archives whose members can't be read by their places."""


def open_folder(
    path: Path,
    cache_dir: str | None = None,
    captions: CaptionsFrom = "auto",
    class_name: str | None = None,
    caption_column: str | None = None,
) -> Any:
    """The rows of a folder, with pictures that are decoded as they are used; one line is logged of what is taken.

    Every picture is for training, whatever its name: `datasets` alone would put `test.png` into a test split.
    Which files count is `Survey`'s rule, the same for all layouts.

    Args:
        path: one of
            * a parquet file, or a folder of them;
            * pictures and a metadata.jsonl, metadata.csv or metadata.parquet with a column `file_name`;
            * pictures, each with its caption in a text file of the same name (`cat.png`, `cat.txt`), kohya's layout;
              a picture without one has the name of its class as its caption, where folders are called `10_rex`;
            * a tar file, or a folder of them without pictures: see `shards`.
        captions: where to look for captions; "auto" takes the first of these that is there.
        class_name: the class of all pictures, where no folder in it says another.
        caption_column: of JSON in tar files.

    Returns:
        a `datasets.Dataset`, of which `PLACE` and `REPEATS` may be columns; or `ShardRows`.

    Raises:
        FileNotFoundError: the folder, a picture or a caption is not there.
        ValueError: the files can't be read; the message names the line.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Give a folder of pictures, or a parquet file.")
    if path.is_file():
        if path.suffix.lower() == ".tar":
            return open_shards(Survey(path), captions, class_name, caption_column)
        return _parquet([_data_file(path)], path, cache_dir)
    survey = Survey(path)
    if survey.shards and _are_all(survey):
        return open_shards(survey, captions, class_name, caption_column)
    survey.note("tar files beside pictures or tables, which alone are read", survey.shards, warn=True)
    if captions == "auto" and (tables := _tables(survey)):
        rows = _parquet(tables, path, cache_dir)
        survey.note("pictures beside parquet files, which alone are read", survey.pictures, warn=True)
        survey.tell(f"{len(rows)} rows of {len(tables)} parquet file{'s' * (len(tables) > 1)}")
        return rows
    survey.note_unreadable()
    metadata = [file for file in survey.files if file.name in METADATA]
    if captions == "metadata" and not metadata:
        raise FileNotFoundError(f"{path} has no {', '.join(METADATA)}, and its captions are to be in one.")
    if captions == "metadata" or (captions == "auto" and metadata):
        return _with_metadata(survey, metadata)
    if captions == "folder":
        return _with_classes(survey, class_name)
    return _with_text_files(survey, _ENDS[captions], class_name)


def parquet_files(path: Path) -> list[Path]:
    """The parquet files of a folder that hold pictures, or the one that `path` is; sorted."""
    if path.suffix == ".parquet" and path.is_file():
        return [path]
    return _tables(Survey(path)) if path.is_dir() else []


def root_cause(error: BaseException) -> BaseException:
    """The first of a chain of errors; the outer ones of `datasets` say only that there was one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _tables(survey: Survey) -> list[Path]:
    return [file for file in survey.files if file.suffix == ".parquet" and file.name not in METADATA]


def _are_all(survey: Survey) -> bool:
    """Whether the shards of a folder are its data: there is no picture, and no table but what img2dataset writes."""
    if survey.pictures or any(file.name in METADATA for file in survey.files):
        return False
    shards, tables = set(survey.shards), _tables(survey)
    if any(table.with_suffix(".tar") not in shards or _may_have_pictures(table) for table in tables):
        return False
    survey.note("tables beside tar files of their names, where the tar files are read and not the tables", tables)
    return True


def _may_have_pictures(table: Path) -> bool:
    """Whether a table is data itself; img2dataset's have addresses and captions alone. One that is damaged may be."""
    import pyarrow
    from pyarrow import parquet, types

    may = (types.is_binary, types.is_large_binary, types.is_struct)
    try:
        columns = [(column.name, column.type) for column in parquet.read_schema(table)]
    except (pyarrow.ArrowException, OSError, ValueError):
        return True  # so that it is read, which tells what is wrong with it
    return any(name in PICTURE_COLUMNS or any(one(kind) for one in may) for name, kind in columns)


def _data_file(path: Path) -> Path:
    if path.suffix != ".parquet":
        raise ValueError(
            f"{path} is neither a folder, a parquet file nor a tar file. Give the folder that holds the pictures."
        )
    return path


def _parquet(tables: list[Path], path: Path, cache_dir: str | None) -> Any:
    import datasets
    from pyarrow import parquet

    table = path
    try:
        for table in tables:
            parquet.read_schema(table)  # `datasets` doesn't say which file is damaged
        table = path
        files = [glob.escape(str(table)) for table in tables]
        return datasets.load_dataset("parquet", data_files={"train": files}, split="train", cache_dir=cache_dir)
    except Exception as error:  # `datasets` raises many kinds, pyarrow's among them; each is about the data here
        raise ValueError(f"The data set {table} can't be read: {root_cause(error)}") from error


def _with_metadata(survey: Survey, tables: list[Path]) -> Any:
    """Each row has to name a picture that is there; pictures that no row names are told."""
    if len({table.name for table in tables}) > 1:
        names = ", ".join(survey.name(table) for table in tables[:4])
        raise ValueError(f"{survey.root} has metadata files of several kinds: {names}. Keep those of one kind.")
    rows = [row for table in tables for row in read_metadata(table)]
    named = {os.path.realpath(row.picture) for row in rows}
    pictures = survey.pictures
    unnamed = [picture for picture in pictures if os.path.realpath(picture) not in named]
    survey.note("named in no metadata file", unnamed, warn=True, of=f" of {len(pictures)} pictures")
    there = set(survey.files)
    beside = [text for text in _captions_of(pictures, survey, _ENDS["auto"]) if text in there]
    survey.note("text files of pictures, instead of which the metadata file counts", beside)
    rows = [row for row in rows if not unreadable_kind(row.picture.suffix.lower())]  # counted with the pictures
    if not rows:
        raise FileNotFoundError(_no_captions(survey))
    columns: dict[str, list[Any]] = {name: [] for row in rows for name in row.values}
    for name, values in columns.items():
        values.extend(row.values.get(name) for row in rows)
    places = [row.place for row in rows]
    found = _dataset(columns, places, survey)
    survey.tell(f"{len(rows)} picture{'s' * (len(rows) != 1)}")
    return found


def _with_text_files(survey: Survey, ends: tuple[str, ...], class_name: str | None) -> Any:
    pictures, folder = survey.pictures, survey.root
    texts = _captions_of(pictures, survey, ends)
    there = set(survey.files)
    classes = [None if text in there else survey.class_of(text) or class_name for text in texts]
    missing = [place for place, text in enumerate(texts) if text not in there and classes[place] is None]
    if len(missing) == len(pictures):
        raise FileNotFoundError(_no_captions(survey))
    if missing:
        first = missing[0]
        raise FileNotFoundError(
            f"{len(missing)} of {len(pictures)} pictures of {folder} have no caption. Write that of "
            f"{pictures[first].name} into {texts[first]}."
        )
    _note_texts(survey, texts, ends)
    without = [picture for picture, name in zip(pictures, classes, strict=True) if name]
    survey.note("pictures without a text file, whose caption is the name of their folder", without)
    written = ["" if name else read_utf8(text) for text, name in zip(texts, classes, strict=True)]
    captions = [name or first_line(words) for words, name in zip(written, classes, strict=True)]
    for text, caption in zip(texts, captions, strict=True):
        if not caption:
            raise ValueError(f"{text} is empty. Write the caption of the picture of this name into it.")
    longer = [text for text, words in zip(texts, written, strict=True) if len(words.strip().split("\n")) > 1]
    survey.note("text files with more lines than the first, which is the caption", longer, warn=True)
    return _pictures(survey, pictures, captions, list(map(str, texts)))


def _with_classes(survey: Survey, class_name: str | None) -> Any:
    """Pictures whose captions are the names of their folders, whatever stands beside them."""
    pictures = survey.pictures
    if not pictures:
        raise FileNotFoundError(_no_captions(survey))
    captions = [survey.class_of(picture) or class_name or picture.parent.name for picture in pictures]
    return _pictures(survey, pictures, captions, list(map(str, pictures)))


def _pictures(survey: Survey, pictures: list[Path], captions: list[str], places: list[str]) -> Any:
    rows = _dataset({"image": [str(picture) for picture in pictures], "text": captions}, places, survey)
    survey.tell(f"{len(pictures)} picture{'s' * (len(pictures) != 1)}")
    return rows


def _note_texts(survey: Survey, texts: list[Path], ends: tuple[str, ...]) -> None:
    """Tells of text files that aren't read."""
    unreadable = [file for file in survey.files if unreadable_kind(file.suffix.lower())]
    used = {*texts, *_captions_of(unreadable, survey, ends)}
    alone = [file for file in survey.files if file.suffix.lower() in ends and file not in used]
    survey.note("text files without a picture", alone)


def _captions_of(pictures: list[Path], survey: Survey, ends: tuple[str, ...]) -> list[Path]:
    """The text files in which the captions of pictures stand, or would: a.txt, or a.TXT, or a.caption."""
    found: dict[str, Path] = {}  # of texts: a Path takes five times the memory
    for end in reversed(ends):
        for written in (end.upper(), end):
            found |= {os.path.splitext(file)[0]: file for file in survey.files if file.suffix == written}
    return [found.get(os.path.splitext(path)[0]) or path.with_suffix(ends[0]) for path in pictures]


def _no_captions(survey: Survey) -> str:
    """Why a folder without metadata has no captioned picture, and what to do."""
    survey.tell("no pictures")
    odd = [file for file in survey.files if unreadable_kind(file.suffix.lower())]
    packed = [file for file in survey.files if _PACKED.search(file.name)]
    if packed and not survey.pictures:
        return (
            f"{survey.root} has no pictures, but {survey.name(packed[0])}. Unpack it to a plain .tar, or to a folder."
        )
    if odd and not survey.pictures:
        remedy = unreadable_kind(odd[0].suffix.lower())
        return f"{survey.root} has no captioned pictures that can be opened here. {survey.name(odd[0])}: {remedy}."
    return (
        f"{survey.root} has no metadata.jsonl, so its pictures have no captions. Write one line a picture: "
        '{"file_name": "cat.png", "text": "a grey cat"}, or give every picture a text file of its name.'
    )


def _dataset(columns: dict[str, list[Any]], places: list[str], survey: Survey) -> Any:
    import datasets
    import pyarrow

    for name, values in columns.items():
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            given = [(place, type(value)) for place, value in zip(places, values, strict=True) if value is not None]
            odd = next((place for place, kind in given if kind is not given[0][1]), None)
            where = f"{odd}: {name!r} is of another kind than in the rows before" if odd else f"{name!r}: {error}"
            raise ValueError(f"The rows of {survey.root} can't be joined. {where}. Write one kind of value.") from error
    if survey.numbered:
        columns = {**columns, REPEATS: [survey.repeats(Path(picture)) for picture in columns["image"]]}
    rows = datasets.Dataset.from_dict({**columns, PLACE: places})
    return rows.cast_column("image", datasets.Image())
