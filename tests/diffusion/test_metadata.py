"""Captions of all layouts: what is taken, and errors that say file, line, and what to do."""

import json

import pytest
from PIL import Image
from pyarrow import Table, parquet

from reslora_sd.diffusion.arguments import prompts_in
from reslora_sd.diffusion.data import load_images
from reslora_sd.diffusion.settings import DataSettings


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


def captions(folder):
    images = load_images(DataSettings(train_data_dir=str(folder)))
    return [caption for (caption,) in images.captions]


def test_the_first_line_of_a_text_file_is_the_caption_as_in_kohyas_scripts(folder, caplog):
    (folder / "a.txt").write_bytes(b"\r\na cat \r\nasleep, on a sofa\r\n")
    (folder / "b.txt").write_bytes("\ufeffa dog\n".encode())
    assert captions(folder) == ["a cat", "a dog"]
    assert "text files with more lines than the first, which is the caption: 1, such as a.txt" in caplog.text


@pytest.mark.parametrize("empty", ["", " \n\n", "\ufeff"])
def test_an_empty_text_file_is_named(folder, empty):
    (folder / "a.txt").write_text("a cat")
    (folder / "b.txt").write_text(empty, encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.txt is empty\. Write the caption"):
        captions(folder)


CSV = [
    ("file_name,text\na.png,a cat\nb.png,a dog, asleep\n", r"metadata\.csv, line 3: there are 3 values for 2 .*quotes"),
    ("file_name,text\na.png\nb.png,x\n", r"metadata\.csv, line 2: there are 1 values for 2 columns"),
    ("file_name,text\na.png,a cat\nb.png,None\n", r"metadata\.csv, line 3 is None\. .*None and nan stand for no text"),
    ("file_name,text\na.png,nan\nb.png,x\n", r"metadata\.csv, line 2 is None"),
    ("file_name,text\na.png,\nb.png,x\n", r"metadata\.csv, line 2 is None"),
    ('file_name,text\na.png,"a cat\nb.png,x\n', r"metadata\.csv, line \d: .*double quote"),
    ("file_name;text\na.png;a cat\n", r"metadata\.csv, line 1: .*'file_name;text'.*none of them file_name"),
    ("", r"metadata\.csv, line 1: the columns are \[\]"),
    ("file_name,text\n", r"metadata\.csv has no rows"),
    ("file_name,text\n,a cat\n", r"metadata\.csv, line 2: the file_name is None"),
]


@pytest.mark.parametrize(("text", "said"), CSV)
def test_a_damaged_csv_is_told_with_file_and_line(folder, text, said):
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        captions(folder)


def test_a_csv_keeps_texts_as_they_are_written(folder):
    text = 'file_name,text\r\na.png,"a ""cat"", asleep"\r\nb.png,12\r\n'
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert captions(folder) == ['a "cat", asleep', "12"]


JSONL = [
    ('{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png"}\n', r"metadata\.jsonl, line 2 is None"),
    ('{"file_name": "a.png", "text": NaN}\n', r"metadata\.jsonl, line 1 is nan"),
    ('{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": 3}', r"jsonl, line 2: 'text' is of another"),
    (
        '{"file_name": "a.png", "text": "x", "n": null}\n{"file_name": "b.png", "text": "x", "n": 3}\n'
        '{"file_name": "b.png", "text": "x", "n": "y"}',
        r"jsonl, line 3: 'n' is of another kind",
    ),
    ('{"file_name": "../a.png", "text": "x"}', r"metadata\.jsonl, line 1: '\.\./a\.png' lies outside"),
    ('{"file_name": "/etc/a.png", "text": "x"}', r"metadata\.jsonl, line 1: .* lies outside"),
    ('{"file_name": "a\\u0000.png", "text": "x"}', r"metadata\.jsonl, line 1: there is no picture"),
    ("[" * 100_000, r"metadata\.jsonl, line 1: no JSON object"),
    ('["a.png"]', r"metadata\.jsonl, line 1: no JSON object"),
    ('{"file_name": "a.png", "text": "\\ud800"}', r"can't be joined|is '.ud800'"),
]


@pytest.mark.parametrize(("text", "said"), JSONL)
def test_a_damaged_metadata_file_is_told_with_file_and_line(folder, text, said):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        captions(folder)


def test_metadata_of_several_kinds_are_refused(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}')
    (folder / "metadata.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(ValueError, match=r"several kinds: metadata\.csv, metadata\.jsonl\. Keep"):
        captions(folder)


def test_other_columns_and_files_written_on_windows_are_kept(folder):
    (folder / "sub").mkdir()
    (folder / "a.png").rename(folder / "sub" / "a.png")
    rows = [
        {"file_name": "sub\\a.png", "about": ["x", "y"], "mask_file_name": "b.png"},
        {"file_name": "b.png", "about": ["z"], "mask_file_name": "sub/a.png"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DataSettings(train_data_dir=str(folder), caption_column="about", image_column="mask")
    images = load_images(data)
    assert images.captions == [["x", "y"], ["z"]] and images.image(0).size == (8, 8)
    with pytest.raises(ValueError, match=r"has the columns image, about, mask\."):
        load_images(DataSettings(train_data_dir=str(folder), caption_column="nope"))


def test_parquet_metadata_and_damaged_parquet_files(folder):
    table = folder / "metadata.parquet"
    parquet.write_table(Table.from_pylist([{"file_name": "b.png", "text": "x"}]), table)
    assert captions(folder) == ["x"]
    table.write_bytes(table.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"metadata\.parquet can't be read as parquet"):
        captions(folder)
    table.rename(folder / "0.parquet")
    with pytest.raises(ValueError, match=r"0\.parquet can't be read"):
        captions(folder)


@pytest.mark.parametrize("name", ["a.txt", "metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("one\nété".encode("latin-1"), "line 2 has the byte 0xe9"),
        ("été".encode("utf-16"), "it is UTF-16"),
        (b"o\0n\0e\0", "line 1 has a zero byte"),
    ],
)
def test_another_encoding_is_told_with_file_and_line(folder, name, data, said):
    (folder / "b.txt").write_text("x")
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} is no UTF-8 text: {said}\. Save it as UTF-8\."):
        captions(folder)


def test_prompts_of_another_encoding_are_told_with_file_and_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat\r\n\r\na dog\r\n", encoding="utf-8")
    assert prompts_in([str(path)]) == ["a cat", "a dog"]
    path.write_text("a cat\nété", encoding="latin-1")
    with pytest.raises(ValueError, match=r"prompts\.txt is no UTF-8 text: line 2 has the byte 0xe9"):
        prompts_in([str(path)])
