"""Which files of a folder are trained on: one rule for all layouts, and one line that tells it."""

import json
import logging
import sys

import pytest
from datasets import Dataset
from PIL import Image

from reslora_sd.diffusion import pictures, survey
from reslora_sd.diffusion.data import load_images
from reslora_sd.diffusion.settings import DataSettings


def put(folder, name, caption=None, size=8):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), "red").save(folder / name)
    if caption:
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")


def load(folder):
    return load_images(DataSettings(train_data_dir=str(folder)))


def captions(folder):
    return [caption for (caption,) in load(folder).captions]


def with_metadata(folder, names):
    lines = [json.dumps({"file_name": name.split("/")[-1], "text": name}) for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(params=["txt", "metadata", "parquet"])
def put_set(request):
    """Writes a folder with one captioned picture, in each layout; gives what its caption is."""

    def write(folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        if request.param == "parquet":
            put(folder.parent, f"{name}.png")
            picture = (folder.parent / f"{name}.png").read_bytes()
            (folder.parent / f"{name}.png").unlink()
            rows = {"image": [{"bytes": picture, "path": None}], "text": [name]}
            Dataset.from_dict(rows).to_parquet(folder / f"{name}.parquet")
        else:
            put(folder, f"{name}.png", name if request.param == "txt" else None)
            if request.param == "metadata":
                with_metadata(folder, [f"{name}.png"])
        return f"{name}.png" if request.param == "metadata" else name

    return write


@pytest.mark.parametrize("aside", [".ipynb_checkpoints", ".cache/old", "@eaDir", "#recycle", "__MACOSX"])
def test_hidden_folders_and_those_of_file_servers_are_no_data(tmp_path, put_set, aside, caplog):
    caplog.set_level(logging.INFO)
    root = tmp_path / ".my" / "set"  # the name of the folder itself is free
    wanted = put_set(root / "in", "good")
    put_set(root / aside, "stale")
    assert captions(root) == [wanted]
    assert f"hidden or system folders: 1, such as {aside.split('/')[0]}" in caplog.text


def test_linked_folders_are_data_and_each_is_read_once(tmp_path, put_set, caplog):
    caplog.set_level(logging.INFO)
    root = tmp_path / "set"
    near, far = put_set(root / "z", "near"), put_set(tmp_path / "elsewhere", "far")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(root)  # round in a circle
    (root / "a").symlink_to(root / "z")  # a folder that is there already
    assert sorted(captions(root)) == sorted([near, far])
    assert "links to folders that are read already: 2" in caplog.text


def test_a_link_that_leads_nowhere_is_told(tmp_path, caplog):
    put(tmp_path, "a.png", "a cat")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    assert captions(tmp_path) == ["a cat"]
    assert "links that lead nowhere: 1, such as b.png" in caplog.text


def test_numbers_of_folders_are_repeats_and_this_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "10_rex/a.png", "rex")
    put(tmp_path, "1_dog/b.png", "a dog")
    assert captions(tmp_path) == ["rex", "a dog"] or captions(tmp_path) == ["a dog", "rex"]
    assert "2 pictures taken. " in caplog.text
    assert "numbered folders, whose pictures are repeated so often: 2, such as 10_rex" in caplog.text


def test_an_ordinary_folder_needs_one_plain_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "a.png", "a cat")
    captions(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [f"Data in {tmp_path}: 1 picture taken."]


@pytest.mark.parametrize("end", [".heic", ".HEIF", ".jxl", ".cr2"])
def test_pictures_that_cannot_be_opened_here_are_told(tmp_path, end, caplog, monkeypatch):
    for module in (pictures, survey):
        monkeypatch.setattr(module, "picture_kinds", lambda: frozenset([".png"]))
    put(tmp_path, "a.png", "a cat")
    (tmp_path / f"b{end}").write_bytes(b"x")
    (tmp_path / "b.txt").write_text("a dog")
    assert captions(tmp_path) == ["a cat"]
    remedy = 'pip install "reslora-sd[heic]"' if "h" in end.lower() else "save them as PNG or JPEG"
    assert remedy in caplog.text and f"such as b{end}" in caplog.text
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no captioned pictures .* b{end}: "):
        captions(tmp_path)


def test_rows_of_pictures_that_cannot_be_opened_here_are_left_out_and_counted(tmp_path, caplog):
    put(tmp_path, "a.png")
    (tmp_path / "b.jxl").write_bytes(b"x")
    with_metadata(tmp_path, ["a.png", "b.jxl"])
    assert captions(tmp_path) == ["a.png"]
    assert "1 picture taken" in caplog.text and "(save them as PNG or JPEG): 1, such as b.jxl" in caplog.text
    with_metadata(tmp_path, ["b.jxl"])
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no captioned pictures .* b\.jxl: save them as PNG"):
        captions(tmp_path)


def test_text_files_that_are_no_captions_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "a.png", "a cat")
    (tmp_path / "licence.txt").write_text("free")
    assert captions(tmp_path) == ["a cat"]
    assert "text files without a picture: 1, such as licence.txt" in caplog.text
    with_metadata(tmp_path, ["a.png"])
    assert captions(tmp_path) == ["a.png"]
    assert "text files of pictures, instead of which the metadata file counts: 1, such as a.txt" in caplog.text


def test_a_caption_may_end_in_capitals_as_a_picture_may(tmp_path):
    put(tmp_path, "a.PNG", "a cat")
    put(tmp_path, "b.png", "a dog")
    (tmp_path / "a.txt").rename(tmp_path / "a.TXT")
    assert captions(tmp_path) == ["a cat", "a dog"]


def test_films_and_tables_beside_pictures_are_none(tmp_path):
    put(tmp_path, "a.png", "a cat")
    for name in ("latents.h5", "film.mpg", "notes.pdf"):
        (tmp_path / name).write_bytes(b"x")
    assert captions(tmp_path) == ["a cat"]


def test_pictures_beside_parquet_files_are_told(tmp_path, caplog):
    put(tmp_path, "a.png")
    rows = {"image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}], "text": ["a cat"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "0.parquet")
    assert captions(tmp_path) == ["a cat"]
    assert "pictures beside parquet files, which alone are read: 1" in caplog.text


def test_heic_is_read_where_its_package_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.heic")
    (tmp_path / "a.txt").write_text("red")
    red = load(tmp_path).image(0).convert("RGB").getpixel((30, 20))
    assert isinstance(red, tuple) and red[0] > 240 and red[1] < 15


def test_heic_is_registered_with_pillow_once_it_is_wanted(monkeypatch):
    calls = []

    class Package:
        @staticmethod
        def register_heif_opener():
            calls.append(1)

    monkeypatch.setitem(sys.modules, "pillow_heif", Package)
    pictures.enable_heic.cache_clear()
    assert pictures.enable_heic() and pictures.enable_heic() and calls == [1]
    pictures.enable_heic.cache_clear()
