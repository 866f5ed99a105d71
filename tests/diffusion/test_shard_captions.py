"""Where captions of tar files stand, what else they hold, and what lies beside them."""

import io
import json
import os
import tarfile
import time
import weakref

import pytest

from reslora_sd.diffusion import shards
from reslora_sd.diffusion.folders import open_folder
from reslora_sd.diffusion.survey import Survey
from tests.diffusion.test_shard_names import from_config
from tests.diffusion.test_shards import PICTURE, TEXT, load, pack, table

JSON = ("a/1.json", json.dumps({"llm": "of a model", "text": "of json"}).encode())


def test_a_caption_column_is_of_json_and_nothing_else_is_read_for_it(tmp_path):
    shard = pack(tmp_path / "10_rex" / "0.tar", [PICTURE, TEXT, JSON])
    assert load(shard, caption_column="llm").captions == [["of a model"]] != load(shard).captions
    with pytest.raises(ValueError, match="has no 'nonsense', but 'llm', 'text'"):
        load(shard, caption_column="nonsense")
    pack(shard, [PICTURE, TEXT])
    for data in (shard, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no caption, .* Write that into a/1.json"):
            load(data, caption_column="llm")
    with pytest.raises(FileNotFoundError, match=r"Write that into a/1.json"):
        open_folder(tmp_path, captions="metadata")
    for kind in ("txt", "caption", "folder"):
        with pytest.raises(ValueError, match=f"caption_column is 'llm', .* captions is '{kind}'. Leave out one"):
            from_config(tmp_path, 'path = "10_rex"', f"captions = {kind!r}", 'caption_column = "llm"')


def test_all_that_is_not_read_is_told_and_captions_as_in_folders(tmp_path, caplog):
    others = [("a/1.npy", b"-"), ("a/1.caption", b"two"), ("a/1.cls", b"3"), ("a/2.png", b"-")]
    pack(tmp_path / "5_rex" / "0.tar", [PICTURE, ("a/1.txt", b"one\nmore\n"), *others])
    with caplog.at_level("INFO"):
        assert load(tmp_path).captions == [["one"], ["rex"]]
    for words in (
        "members beside a picture that aren't read: 3, such as 5_rex/0.tar/a/1.npy",
        "more lines than the first, which is the caption: 1, such as 5_rex/0.tar/a/1.txt",
        "whose caption is the name of their folder: 1, such as 5_rex/0.tar/a/2.png",
    ):
        assert words in caplog.text


def test_data_that_was_read_before_there_were_tar_files_still_is(tmp_path, caplog):
    backup = pack(tmp_path / "train.tar", [PICTURE, TEXT])
    table(tmp_path / "train.parquet", image={"bytes": b"-", "path": None}, text="of the table")
    assert list(open_folder(tmp_path)["text"]) == ["of the table"]
    assert "tar files beside pictures or tables, which alone are read: 1, such as train.tar" in caplog.text
    for values in ({"png": b"-"}, {"image": "1.png"}):
        table(tmp_path / "train.parquet", text="of the table", **values)
        assert list(open_folder(tmp_path)["text"]) == ["of the table"]
    (tmp_path / "train.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"train.parquet can't be read"):
        open_folder(tmp_path)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / ".hidden").mkdir()
    for name in ("without-an-end", ".hidden/1.png"):
        (tmp_path / name).write_bytes(b"-")
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "of the metadata"}))
        assert list(open_folder(tmp_path)["text"]) == ["of the metadata"]
    (tmp_path / "metadata.jsonl").unlink()
    assert open_folder(tmp_path).members[0].shard.path == str(backup)


def test_the_line_says_that_tar_files_are_read_and_not_the_tables_beside_them(tmp_path, caplog):
    pack(tmp_path / "0.tar", [PICTURE, TEXT])
    table(tmp_path / "0.parquet", url="https://x/1.png", caption="one")
    with caplog.at_level("INFO"):
        assert open_folder(tmp_path).captions == ["one"]
    assert "where the tar files are read and not the tables: 1, such as 0.parquet" in caplog.text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"comment": "1" * 60_000}, "a number of more than 256 digits"),
        ({"comment": "x" * 70_000}, "a header says that it has"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}, "headers of a member have more"),
    ],
)
def test_a_header_that_would_take_for_ever_is_told_at_once(tmp_path, header, words):
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("1.png")
        info.pax_headers, info.size = header, 2**20
        archive.addfile(info, io.BytesIO(b"99999999\n" + b"1\n" * 2**19))  # of a sparse file, a very long list
    started = time.process_time()
    with pytest.raises(ValueError, match=f"(?s)0.tar can't be read .*{words}"):
        load(shard)
    assert time.process_time() - started < 1


def test_a_header_may_say_what_tools_write(tmp_path):
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("9" * 250 + "/1.png", "9" * 250 + "/1.txt"):
            info = tarfile.TarInfo(name)
            info.pax_headers = {"SCHILY.xattr.user.note": "x" * 20_000, "mtime": "1700000000.123456789"}
            info.size = 3
            archive.addfile(info, io.BytesIO(b"one"))
    assert load(shard).captions == [["one"]]


def test_a_shard_is_opened_once_for_its_headers_and_once_for_its_captions(tmp_path, monkeypatch):
    pack(tmp_path / "0.tar", [(f"{number}.{end}", b"one") for number in range(20) for end in ("png", "txt")])
    opened, whole = list[str](), shards.Shard.open

    def note(shard):
        opened.append(shard.path)
        return whole(shard)

    monkeypatch.setattr(shards.Shard, "open", note)
    assert len(load(tmp_path)) == 20 and len(opened) == 1


def test_a_shard_that_cannot_be_opened_any_more_is_told_by_its_name(tmp_path):
    images = load(pack(tmp_path / "0.tar", [PICTURE, TEXT]))
    os.unlink(tmp_path / "0.tar")
    with pytest.raises(ValueError, match=r"the shard .*0.tar can't be opened: No such file"):
        images.image(0)
    with pytest.raises(ValueError, match=r"the shard .*0.tar can't be opened: No such file"):
        images.content(0)


def test_a_shard_without_the_right_to_read_it_is_told(tmp_path, monkeypatch):
    def refuse(*given):
        raise PermissionError(13, "Permission denied")

    shard = pack(tmp_path / "0.tar", [PICTURE, TEXT])
    monkeypatch.setattr("reslora_sd.diffusion.tar_members._Headers", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match=r"The shard .*0.tar can't be read \(.*Permission denied\)"):
        load(shard)


def test_many_notes_take_no_longer_each_than_few(tmp_path, caplog):
    survey, started = Survey(tmp_path), time.process_time()
    for number in range(100_000):
        survey.note("odd", [tmp_path / "first" if number == 0 else tmp_path])
    assert time.process_time() - started < 2, "a copy of all before would take a minute"
    with caplog.at_level("INFO"):
        survey.tell("nothing")
    assert "odd: 100000, such as first" in caplog.text


def test_pictures_keep_nothing_of_the_rows_but_what_they_need(tmp_path):
    rows = open_folder(pack(tmp_path / "0.tar", [PICTURE, TEXT]))
    images, kept = rows.images("x"), weakref.ref(rows)
    del rows
    assert kept() is None and len(images) == 1
