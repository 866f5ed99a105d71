"""Uploaded pictures: what is taken, what is refused, and that nothing of them is trusted."""

import json

import pytest
from PIL import Image

from app import uploads
from app.uploads import pick, save_uploads
from reslora_sd.diffusion import pictures
from reslora_sd.diffusion.settings import DataSettings


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "upload"
    folder.mkdir()
    for name, colour in (("red-apple_2.png", "red"), ("blue.jpg", "blue")):
        Image.new("RGB", (9, 7), colour).save(folder / name)
    return sorted(folder.iterdir())


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def save(files, folder, caption="", typed=None):
    """Picks and saves; gives what was said."""
    pictures, notes = pick(files)
    save_uploads(pictures, folder, caption, typed or {})
    return notes


def captions(files):
    return {one.name: one.caption for one in pick(files)[0]}


def test_pictures_get_the_caption_that_was_typed_or_given_or_their_names_in_words(files, tmp_path):
    assert save(files, tmp_path / "a") == []
    assert rows(tmp_path / "a") == [
        {"file_name": "0000.png", "text": "blue"},
        {"file_name": "0001.png", "text": "red apple"},
    ]
    save(files, tmp_path / "b", "a photo of rex", {1: "rex,\n asleep"})
    assert [row["text"] for row in rows(tmp_path / "b")] == ["a photo of rex", "rex, asleep"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "blue.jpg", "text": "the sky, at noon"}\n'),
        ("metadata.csv", 'file_name,text\nimages/blue.jpg,"the sky, at noon"\n'),
        ("captions.csv", 'image,caption\nblue.jpg,"the sky, at noon"\n'),
        ("metadata.csv", 'blue.jpg,"the sky, at noon"\n'),
        ("captions.txt", "blue.jpg: the sky, at noon\n"),
        ("captions.txt", "image|caption\nblue.jpg|the sky, at noon\n"),
        ("all.txt", "blue.jpg\tthe sky, at noon\n"),
        ("blue.txt", "\nthe sky, at noon\nor later\n"),
    ],
)
def test_captions_are_read_from_the_files_that_people_have(files, name, text):
    table = files[0].parent / name
    table.write_text(text, encoding="utf-8-sig" if name != "metadata.jsonl" else "utf-8")
    pictures, notes = pick([*files, table])
    assert notes == []
    assert {one.name: one.caption for one in pictures} == {"blue.jpg": "the sky, at noon", "red-apple_2.png": ""}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metadata.jsonl", b'{"file_name": "../../etc/passwd", "text": "x"}', "names 'passwd'"),
        ("metadata.jsonl", b"no json", "no JSON object"),
        ("metadata.jsonl", b'{"file_name": "red-apple_2.png", "text": ""}', "without a text"),
        ("metadata.csv", b"file_name,text\ngone.png,x\nalso.png,y\n", "names 'gone.png' and 1 more"),
        ("green.txt", b"a field", "names 'a field'"),
        ("blue.txt", "\u00e9t\u00e9".encode("latin-1"), "'blue.txt' is no UTF-8 text"),
        ("blue.txt", b"\n", "names 'blue.jpg', without"),
        ("captions.txt", b"", "names 'captions.txt'"),
    ],
)
def test_captions_that_cannot_be_used_are_told_and_the_pictures_stay(files, name, text, said):
    table = files[0].parent / name
    table.write_bytes(text)
    pictures, notes = pick([*files, table])
    assert [one.name for one in pictures] == ["blue.jpg", "red-apple_2.png"]
    assert any(said in note for note in notes), notes
    assert not any(one.caption for one in pictures)


def test_hidden_files_are_left_out_in_silence(files):
    folder = files[0].parent
    (folder / "._blue.jpg").write_bytes(b"macOS")
    (folder / ".DS_Store").write_bytes(b"macOS")
    pictures, notes = pick(sorted(folder.iterdir()))
    assert (len(pictures), notes) == (2, [])


def test_of_thirteen_files_one_that_cannot_be_used_takes_none_with_it(files, tmp_path, monkeypatch):
    folder = files[0].parent
    (folder / "page.html").write_text("<script>")
    (folder / "fake.png").write_text("<script>")
    Image.new("L", (1, 100_000)).save(folder / "line.png")
    monkeypatch.setattr(uploads, "MOST_BYTES_EACH", 10_000)
    Image.effect_noise((200, 200), 90).save(folder / "large.png")
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (5, 5)).save(other / "blue.jpg")
    pictures, notes = pick([*sorted(folder.iterdir()), other / "blue.jpg"])
    assert [one.name for one in pictures] == ["blue.jpg", "red-apple_2.png"]
    for said in (
        "'page.html' is no picture and no file of captions. It was left out.",
        "'fake.png' is no whole picture",
        "'line.png' has 1 x 100000 pixels",
        "'large.png' has 0 MB. A file may have",
        "A second file is called 'blue.jpg'. It was left out.",
    ):
        assert sum(said in note for note in notes) == 1, (said, notes)
    monkeypatch.setattr(uploads, "MOST_FILES", 1)
    assert len(pick(files)[0]) == 1
    with pytest.raises(ValueError, match="no picture to train on"):
        save_uploads([], tmp_path / "a", "", {})
    assert not (tmp_path / "a").exists()


def test_large_pictures_are_made_smaller(files, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "_KEPT_PIXELS", 64 * 64)
    large = files[0].parent / "large.jpg"
    phone = Image.new("RGB", (400, 200), "green")
    exif = phone.getexif()
    exif[0x0112] = 6  # on its side
    phone.save(large, exif=exif)
    pictures, notes = pick([*files, large])
    assert notes == ["Made smaller, to 4 million pixels: 'large.jpg' (400 x 200)."]
    save_uploads(pictures, tmp_path / "a", "", {})
    sizes = [Image.open(tmp_path / "a" / f"{place:04d}.png").size for place in range(3)]
    assert sizes == [(9, 7), (9, 7), (45, 91)]
    large.unlink()
    with pytest.raises(ValueError, match=r"'large\.jpg' is not there any more"):
        save_uploads(pictures, tmp_path / "b", "", {})
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("a.jxl", "PNG or JPEG"), ("a.tif", "PNG or JPEG"), ("a.heic", "reslora-sd[heic]")]
)
def test_pictures_of_other_kinds_are_left_out_with_what_to_do(files, tmp_path, name, said, monkeypatch):
    monkeypatch.setattr(uploads, "KINDS", (".png", ".jpg"))
    monkeypatch.setattr(pictures, "picture_kinds", lambda: frozenset([".png", ".jpg", ".tif"]))
    (tmp_path / name).write_bytes(b"x")
    found, (note,) = pick([*files, tmp_path / name])
    assert len(found) == 2 and f"'{name}' is of a kind that the page can't take (" in note and said in note


def test_heic_is_taken_where_its_package_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.heic")
    assert save([tmp_path / "a.heic"], tmp_path / "a") == []
    assert Image.open(tmp_path / "a" / "0000.png").size == (64, 48)


def test_the_training_script_takes_the_folder(files, tmp_path):
    from reslora_sd.diffusion.data import load_images

    save(files, tmp_path / "a")
    assert load_images(DataSettings(train_data_dir=str(tmp_path / "a"))).captions == [["blue"], ["red apple"]]


def test_phones_pictures_stand_upright_and_transparency_becomes_white(tmp_path):
    from reslora_sd.diffusion.data import load_images
    from reslora_sd.diffusion.pictures import as_rgb

    phone = Image.new("RGB", (9, 7), "blue")
    exif = phone.getexif()
    exif[0x0112] = 6  # on its side
    phone.save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (5, 5), (255, 0, 0, 0)).save(tmp_path / "b.webp", lossless=True, exact=True)
    Image.new("CMYK", (5, 5), (255, 0, 0, 0)).save(tmp_path / "c.jpg", quality=100)
    save(sorted(tmp_path.iterdir()), tmp_path / "run")
    images = load_images(DataSettings(train_data_dir=str(tmp_path / "run")))
    assert images.image(0).size == (7, 9)
    assert as_rgb(images.image(1)).getpixel((2, 2)) == (255, 255, 255)
    colour = as_rgb(images.image(2)).getpixel((2, 2))
    assert isinstance(colour, tuple)
    red, green, blue = colour
    assert red < 5 and green > 250 and blue > 250
