"""Uploaded pictures: what is taken, what is refused, and that nothing of them is trusted."""

import json

import pytest
from PIL import Image

from app import uploads
from app.uploads import save_uploads
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


def test_pictures_get_the_caption_that_was_given_or_their_names_in_words(files, tmp_path):
    assert save_uploads(files, tmp_path / "a", "") == 2
    assert rows(tmp_path / "a") == [
        {"file_name": "0000.png", "text": "blue"},
        {"file_name": "0001.png", "text": "red apple"},
    ]
    save_uploads(files, tmp_path / "b", "a photo of rex")
    assert {row["text"] for row in rows(tmp_path / "b")} == {"a photo of rex"}


def test_captions_of_an_uploaded_metadata_file_are_used(files, tmp_path):
    table = files[0].parent / "metadata.jsonl"
    table.write_text('{"file_name": "blue.jpg", "text": "sky"}\n')
    save_uploads([*files, table], tmp_path / "a", "else")
    assert {row["text"] for row in rows(tmp_path / "a")} == {"sky", "else"}


def test_captions_in_text_files_are_used(files, tmp_path):
    text = files[0].parent / "blue.txt"
    text.write_text("the sky\n", encoding="utf-8-sig")
    save_uploads([*files, text], tmp_path / "a", "")
    assert [row["text"] for row in rows(tmp_path / "a")] == ["the sky", "red apple"]
    text.rename(text.with_name("green.txt"))
    with pytest.raises(ValueError, match=r"'green\.txt' has the name of no uploaded picture"):
        save_uploads([*files, text.with_name("green.txt")], tmp_path / "b", "")
    text.write_text("été", encoding="latin-1")
    with pytest.raises(ValueError, match=r"'blue\.txt' is no UTF-8 text"):
        save_uploads([*files, text], tmp_path / "b", "")


def test_captions_and_hidden_files_follow_the_rules_of_folders(files, tmp_path):
    folder = files[0].parent
    (folder / "blue.txt").write_text("\nthe sky\nat noon\n")
    (folder / "._blue.jpg").write_bytes(b"macOS")
    (folder / ".DS_Store").write_bytes(b"macOS")
    assert save_uploads(sorted(folder.iterdir()), tmp_path / "a", "") == 2
    assert [row["text"] for row in rows(tmp_path / "a")] == ["the sky", "red apple"]
    (folder / "blue.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"'blue\.txt' .* is empty"):
        save_uploads(sorted(folder.iterdir()), tmp_path / "b", "")


@pytest.mark.parametrize(
    ("name", "said"), [("a.jxl", "PNG or JPEG"), ("a.tif", "PNG or JPEG"), ("a.heic", r"reslora-sd\[heic\]")]
)
def test_pictures_of_other_kinds_are_refused_with_what_to_do(files, tmp_path, name, said, monkeypatch):
    monkeypatch.setattr(uploads, "KINDS", (".png", ".jpg"))
    monkeypatch.setattr(pictures, "picture_kinds", lambda: frozenset([".png", ".jpg", ".tif"]))
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"'{name}' is of a kind that the page can't take \(.*{said}"):
        save_uploads([*files, tmp_path / name], tmp_path / "a", "")


def test_heic_is_taken_where_its_package_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.heic")
    assert save_uploads([tmp_path / "a.heic"], tmp_path / "a", "red") == 1
    assert Image.open(tmp_path / "a" / "0000.png").size == (64, 48)


def test_two_files_of_one_name_are_refused(files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (5, 5)).save(other / "blue.jpg")
    with pytest.raises(ValueError, match=r"two files 'blue\.jpg'"):
        save_uploads([*files, other / "blue.jpg"], tmp_path / "a", "")


def test_the_training_script_takes_the_folder(files, tmp_path):
    from reslora_sd.diffusion.data import load_images

    save_uploads(files, tmp_path / "a", "")
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
    save_uploads(sorted(tmp_path.iterdir()), tmp_path / "run", "")
    images = load_images(DataSettings(train_data_dir=str(tmp_path / "run")))
    assert images.image(0).size == (7, 9)
    assert as_rgb(images.image(1)).getpixel((2, 2)) == (255, 255, 255)
    colour = as_rgb(images.image(2)).getpixel((2, 2))
    assert isinstance(colour, tuple)
    red, green, blue = colour
    assert red < 5 and green > 250 and blue > 250


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "../../etc/passwd", "text": "x"}', "was not uploaded"),
        ("no json", "no JSON object"),
        ('{"file_name": "blue.jpg", "text": ""}', "has no text"),
    ],
)
def test_captions_that_name_other_files_are_refused(files, tmp_path, line, said):
    table = files[0].parent / "metadata.jsonl"
    table.write_text(line + "\n")
    with pytest.raises(ValueError, match=said):
        save_uploads([*files, table], tmp_path / "a", "")
    assert not (tmp_path / "a").exists()


def test_other_kinds_damaged_and_too_large_files_are_refused(files, tmp_path, monkeypatch):
    folder = files[0].parent
    (folder / "page.html").write_text("<script>")
    with pytest.raises(ValueError, match=r"'page\.html' is no picture"):
        save_uploads([*files, folder / "page.html"], tmp_path / "a", "")
    (folder / "fake.png").write_text("<script>")
    with pytest.raises(ValueError, match=r"'fake\.png' is no whole picture"):
        save_uploads([*files, folder / "fake.png"], tmp_path / "a", "")
    Image.new("L", (1, 100_000)).save(folder / "line.png")
    with pytest.raises(ValueError, match=r"'line\.png' has 1 x 100000 pixels: .* Crop it"):
        save_uploads([*files, folder / "line.png"], tmp_path / "a", "")
    with pytest.raises(ValueError, match="no picture among"):
        save_uploads([], tmp_path / "a", "")
    monkeypatch.setattr(uploads, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="together"):
        save_uploads(files, tmp_path / "a", "")
    monkeypatch.setattr(uploads, "MOST_BYTES_EACH", 10)
    with pytest.raises(ValueError, match="A file may have"):
        save_uploads(files, tmp_path / "a", "")
    monkeypatch.setattr(uploads, "MOST_FILES", 1)
    with pytest.raises(ValueError, match="At most 1 can be uploaded"):
        save_uploads(files, tmp_path / "a", "")
    assert not (tmp_path / "a").exists()
