"""What names say in tar files and around them: repeats, classes, order, hidden ones, and those that are odd."""

import pytest

from reslora_sd.diffusion.data import load_pictures
from reslora_sd.diffusion.settings import DataSettings
from tests.diffusion.test_shards import PICTURE, load, pack


def from_config(folder, *lines):
    (folder / "set.toml").write_text("\n".join(["[[folders]]", *lines]))
    return load_pictures(DataSettings(dataset_config=str(folder / "set.toml")))


@pytest.mark.parametrize("name", ["10_rex.tar", "8_0001.tar", "10_REX.TAR"])
def test_the_name_of_a_tar_file_says_neither_class_nor_repeats(tmp_path, name):
    shard = pack(tmp_path / name, [PICTURE])
    for read in (lambda: load(shard), lambda: from_config(tmp_path, f"path = {name!r}")):
        with pytest.raises(FileNotFoundError, match=r"1 of 1 pictures .* no caption"):
            read()
    pack(shard, [PICTURE, ("a/1.txt", b"one")])
    assert from_config(tmp_path, f"path = {name!r}").repeats == load(shard).repeats == [1]


def test_the_name_of_a_folder_says_both_even_if_it_ends_as_a_tar_file_does(tmp_path):
    pack(tmp_path / "10_rex.tar" / "0.tar", [PICTURE])
    found = from_config(tmp_path, 'path = "10_rex.tar"')
    assert (found.captions, found.repeats) == ([["rex.tar"]], [10]), "as that of a folder of pictures"


def test_a_folder_that_holds_all_of_a_tar_file_is_its_root(tmp_path, caplog):
    pack(tmp_path / "whole.tar", [("a/b/10_rex/1.png", b"-"), ("a/b/2_toy/x/1.png", b"-")])
    found = load(tmp_path / "whole.tar")
    assert (found.captions, found.repeats) == ([["rex"], ["toy"]], [10, 2])
    pack(tmp_path / "one.tar", [("photos/10_rex/1.png", b"-"), ("photos/10_rex/x/2.png", b"-")])
    assert load(tmp_path / "one.tar").repeats == [10, 10]
    assert load(tmp_path).repeats == [10, 10, 10, 2], "each tar file has a root of its own"
    caplog.clear()
    pack(tmp_path / "odd.tar", [PICTURE, ("a/1.txt", b"x"), ("b/10_rex/2.png", b"-"), ("b/10_rex/2.txt", b"y")])
    assert load(tmp_path / "odd.tar").repeats == [1, 1]
    assert "repeat nothing, since not every picture lies in one: 1, such as b/10_rex" in caplog.text


def test_numbered_folders_in_tar_files_of_numbered_folders_are_told(tmp_path, caplog):
    pack(tmp_path / "4_cat" / "0.tar", [("10_rex/1.png", b"-")])
    assert (load(tmp_path).captions, load(tmp_path).repeats) == ([["cat"]], [4])
    assert "tar files that lie in numbered folders, which count: 1, such as 4_cat/0.tar/10_rex" in caplog.text


def test_pictures_come_by_name_in_whichever_order_they_were_packed(tmp_path):
    members = [(f"{name}.{end}", name.encode()) for name in ("b/1", "a/2", "a/10") for end in ("txt", "png")]
    for order in (members, members[::-1]):
        found = load(pack(tmp_path / "0.tar", order))
        assert found.captions == [["a/10"], ["a/2"], ["b/1"]]
        assert [found.content(row) for row in (0, 2)] != [found.content(1)] * 2


def test_names_that_are_no_utf8_are_told_apart_and_printed_as_text(tmp_path):
    odd = [b"caf\xe9.png", b"caf\xe8.txt", b"\x1b[31m\n.png"]
    pack(tmp_path / "0.tar", [(name.decode("utf-8", "surrogateescape"), b"-") for name in odd])
    with pytest.raises(FileNotFoundError, match=r"2 of 2 pictures .* no caption") as error:
        load(tmp_path)
    assert r"0.tar, \x1b[31m\n.png" in str(error.value) and str(error.value).isprintable()
    pack(tmp_path / "0.tar", [(name.decode("utf-8", "surrogateescape"), b"-") for name in (*odd[:1], b"caf\xe9.txt")])
    assert load(tmp_path).label(0).endswith(r"0.tar, caf\xe9.png")
    pack(tmp_path / "0.tar", [("10_caf\udce9/1.png", b"-")])
    assert load(tmp_path).captions == [["caf\ufffd"]]


def test_odd_names_in_errors_and_in_the_line_at_the_start_are_printable(tmp_path, caplog):
    for name in ("../\x1b[2J\r.png", "/\x07.png"):
        with pytest.raises(ValueError, match="lies outside") as error:
            load(pack(tmp_path / "0.tar", [(name, b"-")]))
        assert str(error.value).isprintable()
    with caplog.at_level("INFO"):
        load(pack(tmp_path / "0.tar", [PICTURE, ("a/1.txt", b"x"), ("\x1b[2J\u202e.txt", b"x")]))
    assert r"members without a picture: 1, such as \x1b[2J\u202e.txt" in caplog.text


def test_hidden_and_system_folders_count_as_little_as_those_of_a_folder(tmp_path, caplog):
    hidden = [(name, b"-") for name in (".trash/1.png", "@eaDir/1/2.png", "a/.3.png", "#recycle/4.png")]
    with caplog.at_level("INFO"):
        assert len(load(pack(tmp_path / "0.tar", [*hidden, PICTURE, ("a/1.txt", b"one")]))) == 1
    assert "hidden files: 4, such as .trash/1.png" in caplog.text


def test_names_that_differ_in_case_alone_are_told_as_they_are_written(tmp_path):
    for members, words in (
        ([("1.JPG", b"-"), ("1.jpg", b"-")], "has 1.JPG and 1.jpg, which is one name"),
        ([("1.JPG", b"-"), ("1.PNG", b"-")], "two pictures of one name: 1.JPG and 1.PNG"),
    ):
        with pytest.raises(ValueError, match=words):
            load(pack(tmp_path / "0.tar", members))
