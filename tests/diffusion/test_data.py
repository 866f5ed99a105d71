import json
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from PIL import Image as PillowImage

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.data import load_images, load_split
from reslora_sd.diffusion.framing import Framing
from reslora_sd.diffusion.pictures import as_rgb
from reslora_sd.diffusion.settings import DataSettings
from tests.conftest import make_picture_folder


def folder_of(path, **more):
    return DataSettings(train_data_dir=str(path), **more)


def test_a_folder_with_metadata_gives_pictures_with_their_captions(picture_folder):
    images = load_images(folder_of(picture_folder))
    assert len(images) == 8 and images.all_square
    for index, (caption,) in enumerate(images.captions):
        colour = images.image(index).getpixel((0, 0))
        assert isinstance(colour, tuple) and colour[0] == 30 * int(caption.split()[-1])


@pytest.mark.parametrize("as_folder", [True, False])
def test_parquet_of_the_hub_layout(tmp_path, picture_folder, as_folder):
    rows = {
        "image": [{"bytes": (picture_folder / f"{i}.png").read_bytes(), "path": f"{i}.png"} for i in range(4)],
        "caption": [["one", "two"], ["three"], ["four"], ["five"]],
    }
    folder = tmp_path / "parquet [1]"
    folder.mkdir()
    Dataset.from_dict(rows).to_parquet(folder / "test-0[1].parquet")
    images = load_images(folder_of(folder if as_folder else folder / "test-0[1].parquet"))
    assert images.captions == rows["caption"] and images.image(3).size == (16, 16)


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_every_picture_is_for_training_whatever_its_name(tmp_path, table):
    names = ["cat.png", "test.png", "eval-dog.png", "sub/validation/x.png", "a[1].png"]
    folder = tmp_path / "test" / "my [set]"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PillowImage.new("RGB", (8, 8)).save(folder / name)
    lines = [json.dumps({"file_name": name, "text": name}) for name in names]
    if table == "metadata.csv":
        lines = ["file_name,text", *(f"{name},{name}" for name in names)]
    (folder / table).write_text("\n".join(lines))
    assert sorted(caption for (caption,) in load_images(folder_of(folder)).captions) == sorted(names)


def test_pictures_that_no_metadata_names_are_told(tmp_path, caplog):
    folder = make_picture_folder(tmp_path / "pictures")
    PillowImage.new("RGB", (8, 8)).save(folder / "extra.png")
    assert len(load_images(folder_of(folder))) == 8
    assert "1 of 9 pictures" in caplog.text and "extra.png" in caplog.text


def test_captions_in_text_files_beside_the_pictures(tmp_path, caplog):
    for name in ("b/test.png", "a.jpg", "c.d.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PillowImage.new("RGB", (8, 8), "red").save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"caption of {name}\n")
    for other in ("._a.jpg", "notes.pdf"):
        (tmp_path / other).write_text("no picture")
    images = load_images(folder_of(tmp_path))
    assert images.captions == [["caption of a.jpg"], ["caption of b/test.png"], ["caption of c.d.webp"]]
    assert images.image(0).size == (8, 8)
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    (tmp_path / "a.txt").write_text("été", encoding="utf-8-sig")
    assert load_images(folder_of(tmp_path)).captions[0] == ["été"]
    (tmp_path / "a.txt").write_text("été", encoding="latin-1")
    with pytest.raises(ValueError, match=r"a\.txt is no UTF-8 text"):
        load_images(folder_of(tmp_path))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 pictures .* no caption.*a\.jpg into .*a\.txt"):
        load_images(folder_of(tmp_path))


def test_max_train_samples_draws_with_the_seed(picture_folder):
    def captions(seed):
        return load_images(folder_of(picture_folder, max_train_samples=3), seed=seed).captions

    assert len(captions(1)) == 3 and captions(1) == captions(1) and captions(1) != captions(2)


def test_bad_data_is_told_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere"):
        load_images(folder_of(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no metadata\.jsonl"):
        load_images(folder_of(tmp_path / "empty"))

    missing = make_picture_folder(tmp_path / "missing")
    (missing / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"line 4: there is no picture .*3\.png"):
        load_images(folder_of(missing))

    corrupt = make_picture_folder(tmp_path / "corrupt")
    (corrupt / "5.png").write_bytes((corrupt / "5.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"Picture 5 of .*'colour 5'.* can't be read"):
        load_images(folder_of(corrupt))

    table = make_picture_folder(tmp_path / "table")
    (table / "metadata.jsonl").unlink()
    (table / "metadata.csv").write_text("file_name,text\n0.png,a\nnowhere.png,b\n")
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv, line 3: there is no picture .*nowhere\.png"):
        load_images(folder_of(table))

    text = make_picture_folder(tmp_path / "text")
    (text / "2.png").write_text("no picture")
    with pytest.raises(ValueError, match="Picture 2"):
        load_images(folder_of(text))

    broken = make_picture_folder(tmp_path / "broken")
    with (broken / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": ')
    with pytest.raises(ValueError, match="line 9: no JSON object"):
        load_images(folder_of(broken))


@pytest.mark.parametrize("caption", ["", "   ", None])
def test_an_empty_caption_is_told(tmp_path, caption):
    folder = make_picture_folder(tmp_path / "pictures")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[6]["text"] = caption
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(ValueError, match="caption of picture 6"):
        load_images(folder_of(folder))


def test_wrong_columns_are_told_with_those_that_there_are(picture_folder, tmp_path):
    with pytest.raises(ValueError, match=r"--caption_column is 'label', but .* columns image, text"):
        load_images(folder_of(picture_folder, caption_column="label"))
    Dataset.from_dict({"a": [1]}, features=Features({"a": Value("int64")})).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="columns a, none named like image"):
        load_images(folder_of(tmp_path / "x.parquet"))


def test_framing_resizes_the_shorter_side_and_crops(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 20:] = 255
    image = PillowImage.fromarray(pixels)
    centre = Framing(10, center_crop=True)(image, random.Random(0))
    assert centre.shape == (3, 10, 10) and centre.min() == -1 and centre.max() == 1
    assert torch.all(centre[:, :, :4] < -0.95) and torch.all(centre[:, :, 6:] > 0.95)  # lanczos rings a little
    places = {float(Framing(10)(image, random.Random(seed)).mean()) for seed in range(20)}
    assert len(places) > 3
    flipped = {float(Framing(10, True, True)(image, random.Random(seed))[0, 0, 0]) for seed in range(20)}
    assert flipped == {-1.0, 1.0}


def test_transparency_goes_on_white_and_phones_pictures_stand_upright():
    clear = PillowImage.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert as_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    wide = PillowImage.new("RGB", (8, 4))
    exif = wide.getexif()
    exif[0x0112] = 6
    wide.info["exif"] = exif.tobytes()
    assert as_rgb(wide).size == (4, 8)


def test_sixteen_bits_keep_their_tones_and_thirty_two_are_refused(tmp_path):
    grey = PillowImage.fromarray(np.full((4, 4), 32896, dtype=np.uint16))
    grey.save(tmp_path / "a.png")
    assert as_rgb(PillowImage.open(tmp_path / "a.png")).getpixel((0, 0)) == (128, 128, 128)
    (tmp_path / "a.txt").write_text("grey")
    assert len(load_images(folder_of(tmp_path))) == 1
    PillowImage.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "b.tiff")
    (tmp_path / "b.txt").write_text("grey, too")
    with pytest.raises(ValueError, match=r"Picture 1 .*'grey, too'.* 32 bits a channel"):
        load_images(folder_of(tmp_path))


def test_openmoji_is_there_without_a_network():
    images = load_images(DataSettings(max_train_samples=5), resolution=64)
    assert len(images) == 5 and images.image(0).size == (64, 64)
    assert images.image(0).getpixel((0, 0)) == (255, 255, 255)
    assert all("_" not in caption and ":" not in caption for (caption,) in images.captions)


@pytest.mark.parametrize("most", [(), ("--max_train_samples", "5")])
def test_the_parts_of_a_split_share_nothing_and_no_seed_changes_the_test_pictures(tmp_path, most):
    folder = make_picture_folder(tmp_path / "pictures", count=9)

    def split(*flags):
        given = ["--train_data_dir", str(folder), *most, *flags]
        parts = load_split(parse_settings(given), 16)
        return [None if part is None else [caption for (caption,) in part.captions] for part in parts]

    both = ("--validation_samples", "2", "--test_samples", "3")
    training, kept_out, test = split(*both, "--seed", "1")
    assert (len(training), len(kept_out), len(test)) == ((3, 2, 3) if most else (4, 2, 3))
    assert len({*training, *kept_out, *test}) == len(training) + 5
    others = [split(*both, "--seed", str(seed)) for seed in range(2, 6)]
    assert all(other[2] == test and not {*other[0], *other[1]} & {*test} for other in others)
    assert any(other[1] != kept_out for other in others)
    assert split("--test_samples", "3")[1:] == [None, test]
    with pytest.raises(ValueError, match="--test_samples 9 leaves none of the 9 pictures"):
        split("--test_samples", "9")
    with pytest.raises(ValueError, match=r"--validation_samples 6 leaves none of the [56] pictures"):
        split("--validation_samples", "6", "--test_samples", "3")


def test_drawings_that_are_tested_on_are_no_others():
    flags = [
        "--dataset_name",
        "openmoji",
        "--max_train_samples",
        "9",
        "--validation_samples",
        "2",
        "--test_samples",
        "4",
        "--seed",
    ]

    def split(seed):
        parts = load_split(parse_settings([*flags, seed]), 8)
        return [[caption for (caption,) in part.captions] for part in parts if part is not None]

    first, second = split("1"), split("7")
    assert [len(part) for part in first] == [7, 2, 4] and len({*first[0], *first[1], *first[2]}) == 13
    assert first[2] == second[2] and first[0] != second[0]
