"""`--dataset_config` and kohya's folders: several folders as one data set, and what is wrong with a description."""

import json
import logging
from typing import Any, cast

import pytest
from datasets import Dataset
from PIL import Image

from reslora_sd.diffusion import preparing
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import training_batches
from reslora_sd.diffusion.captioned import Look
from reslora_sd.diffusion.data import load_images, load_split
from reslora_sd.diffusion.framing import framing_of, shapes_of
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.settings import DataSettings
from reslora_sd.diffusion.sources import numbered_name, read_sources
from reslora_sd.runs.folder import RunFolder
from tests.photos import make_photos


def put(folder, name, caption=None, end=".txt", colour="red"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), colour).save(path)
    if caption is not None:
        path.with_suffix(end).write_text(caption, encoding="utf-8")


def described(folder, text, name="set.toml"):
    (folder / name).write_text(text, encoding="utf-8")
    return load_images(DataSettings(dataset_config=str(folder / name)))


def test_folders_of_all_kinds_are_one_data_set(tmp_path):
    put(tmp_path, "texts/a.png", "a cat")
    put(tmp_path, "texts/b.png", "rex, a dog")
    put(tmp_path, "captions/c.png", "a hat", end=".caption")
    put(tmp_path, "table/d.png")
    (tmp_path / "table/metadata.csv").write_text("file_name,words\nd.png,a bird\n")
    rows = {"image": [{"bytes": (tmp_path / "texts/a.png").read_bytes(), "path": None}], "text": [["one", "two"]]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    put(tmp_path, "red hats/e.png")
    images = described(
        tmp_path,
        """
        trigger_word = "rex"
        [[folders]]
        path = "texts"
        repeats = 3
        [[folders]]
        path = "captions"
        captions = "caption"
        flip = true
        [[folders]]
        path = "table"
        caption_column = "words"
        trigger_word = "birdie"
        [[folders]]
        path = "rows.parquet"
        prefix = "a photo of "
        resolution = 32
        [[folders]]
        path = "red hats"
        captions = "folder"
        """,
    )
    texts = [["rex, a cat"], ["rex, a dog"], ["rex, a hat"], ["birdie, a bird"]]
    assert images.captions == [*texts, ["a photo of rex, one", "a photo of rex, two"], ["rex, red hats"]]
    assert images.repeats == [3, 3, 1, 1, 1, 1] and len(images) == 6
    assert [look.as_framed for look in images.looks] == [Look()] * 2 + [
        Look(flip=True),
        Look(),
        Look(resolution=32),
        Look(),
    ]
    assert images.name == str(tmp_path / "set.toml") and images.image(4).size == (24, 16)
    kept, apart = images.split(2, seed=0)
    assert sorted(kept.captions + apart.captions) == sorted(images.captions) and sum(kept.repeats) >= 4


def test_yaml_says_the_same_and_paths_are_as_seen_from_the_file(tmp_path, monkeypatch):
    put(tmp_path, "in/a/x.png", "x")
    monkeypatch.chdir(tmp_path)
    text = "folders:\n- {path: a, repeats: 2, flip: no}\n"
    images = described(tmp_path / "in", text, "set.yaml")
    assert (images.repeats, images.looks) == ([2], [Look(flip=False)])


def test_kohyas_folders_repeat_and_name_what_has_no_caption(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "10_sks dog/a.png", "sks on a beach")
    put(tmp_path, "10_sks dog/b.png")
    put(tmp_path, "1_plain_dog/deep/c.png", "a dog", end=".caption")
    images = load_images(DataSettings(train_data_dir=str(tmp_path)))
    found = dict(zip([caption for (caption,) in images.captions], images.repeats, strict=True))
    assert found == {"sks on a beach": 10, "sks dog": 10, "a dog": 1}
    assert "whose caption is the name of their folder: 1, such as 10_sks dog/b.png" in caplog.text
    own = described(tmp_path, '[[folders]]\npath = "10_sks dog"\n[[folders]]\npath = "1_plain_dog"\nrepeats = 4\n')
    assert (own.captions, own.repeats) == ([["sks on a beach"], ["sks dog"], ["a dog"]], [10, 10, 4])


@pytest.mark.parametrize("folders", [("10_rex", "."), ("2023_summer", "10_rex"), ("rex", "10_rex")])
def test_folders_that_are_not_all_kohyas_repeat_nothing(tmp_path, folders):
    for number, folder in enumerate(folders):
        put(tmp_path, f"{folder}/001_{number}.png", "rex")
    assert load_images(DataSettings(train_data_dir=str(tmp_path))).repeats == [1, 1]


def test_numbers_that_repeat_nothing_are_told(tmp_path, caplog):
    put(tmp_path, "10_rex/a.png", "rex")
    put(tmp_path, "b.png", "rex")
    load_images(DataSettings(train_data_dir=str(tmp_path)))
    assert "numbered folders that repeat nothing, since not every picture lies in one: 1, such as 10_rex" in caplog.text


def test_the_trigger_word_is_for_all_folders_of_a_file_that_have_none(tmp_path):
    put(tmp_path, "a/1.png", "a dog")
    put(tmp_path, "b/2.png", "a cat")
    (tmp_path / "set.toml").write_text('[[folders]]\npath = "a"\n[[folders]]\npath = "b"\ntrigger_word = "tom"\n')
    data = DataSettings(dataset_config=str(tmp_path / "set.toml"), trigger_word="rex")
    assert load_images(data).captions == [["rex, a dog"], ["tom, a cat"]]


def test_a_picture_that_two_folders_have_is_trained_or_kept_out(tmp_path, caplog):
    for number in range(6):
        put(tmp_path, f"a/{number}.png", f"first {number}", colour=(40 * number, 0, 0))
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").glob("*.png"):
        (tmp_path / "b" / f"copy{file.name}").write_bytes(file.read_bytes())
        (tmp_path / "b" / f"copy{file.stem}.txt").write_text(f"second {file.stem}")
    (tmp_path / "set.toml").write_text('[[folders]]\npath = "a"\n[[folders]]\npath = "b"\n')
    words = ["--dataset_config", str(tmp_path / "set.toml"), "--validation_samples", "3", "--test_samples", "2"]
    training, kept_out, test = load_split(parse_settings(words), 16)
    assert kept_out is not None and test is not None and (len(kept_out), len(test)) == (3, 2)
    seen = [{images.image(row).tobytes() for row in range(len(images))} for images in (training, kept_out, test)]
    assert len(training) > 0 and not seen[0] & (seen[1] | seen[2])
    assert "are copies of pictures that are kept out" in caplog.text
    assert training.copies_left_out == 12 - 5 - len(training)
    older = load_split(parse_settings(words), 16, with_copies=True).training
    assert (len(older), older.copies_left_out) == (7, None)


@pytest.mark.parametrize(("said", "expected"), [({}, True), ({"copies_left_out": 0}, False)])
def test_a_run_that_began_with_copies_goes_on_with_them(tmp_path, monkeypatch, said, expected):
    asked = []

    def note(*_, with_copies=False):
        asked.append(with_copies)
        raise InterruptedError

    monkeypatch.setattr(preparing, "load_split", note)
    (tmp_path / "run.json").write_text(json.dumps({"dataset": {"pictures": 7, **said}}))
    settings, anything = parse_settings([]), cast(Any, None)
    for checkpoint in (tmp_path / "checkpoint-2", tmp_path / "elsewhere/checkpoint-2", None):
        with pytest.raises(InterruptedError):
            preparing.prepare_data(settings, anything, 16, anything, RunFolder(tmp_path), checkpoint, anything)
    assert asked == [expected, False, False]


def test_numbered_names():
    assert numbered_name("10_sks_dog") == (10, "sks dog") and numbered_name("7_x") == (7, "x")
    others = [
        "007_x",
        "01_front",
        "20_09_2024",
        "rex",
        "10rex",
        "10_",
        "0_x",
        "2023_summer",
        "99999999999999_x",
        "10-x",
        "\u0661_x",
    ]
    assert not any(map(numbered_name, others))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[folders]]\npath = "a"\nrepaets = 2', r"set.toml, folder 1: 'repaets' is no key. Did you mean 'repeats'\?"),
        ('[[folders]]\npath = "a"\nxyz = 2', r"folder 1: 'xyz' is no key. Known are: path, dataset_name,"),
        ('[[folder]]\npath = "a"', "has no list of tables named 'folders'"),
        ("folders = 3", "has no list of tables named 'folders'"),
        ("folders = []", "has no list of tables named 'folders'"),
        ('[[folders]]\npath = "a"\nrepeats = "two"', "folder 1: repeats is 'two'. It must be a whole number"),
        ('[[folders]]\npath = "a"\nrepeats = true', "repeats is True. It must be a whole number"),
        ('[[folders]]\npath = "a"\nrepeats = 0', "folder 1: repeats is 0. It must be 1 or more"),
        ('[[folders]]\npath = "a"\nrepeats = 100000000', "repeats is 100000000. It must be 1000 or less"),
        ('[[folders]]\npath = "a"\ncaptions = "text"', "captions is 'text'. It must be one of auto, txt, caption"),
        ('[[folders]]\npath = "a"\ntrigger_word = " "', "folder 1: trigger_word is empty"),
        ('[[folders]]\npath = ["a"]', r"path is \['a'\]. It must be text"),
        ("[[folders]]\nrepeats = 2", "folder 1: write either 'path' or 'dataset_name'"),
        ('[[folders]]\npath = "a"\ndataset_name = "b/c"', "write either 'path' or 'dataset_name'"),
        ('[[folders]]\ndataset_name = "gold"', "dataset_name gold is not for a config file"),
        ('path = "a"\n[[folders]]\npath = "b"', "'path' stands above the folders"),
        ('[[folders]]\npath = "nowhere"', "There is no .*nowhere"),
        ("folders = [", "set.toml can't be read as TOML"),
        ("a = 1\na = 2", "set.toml can't be read as TOML: .*overwrite"),
    ],
)
def test_a_description_that_is_wrong_is_one_error_with_file_and_key(tmp_path, text, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        described(tmp_path, text)


def test_a_file_that_is_not_there_and_flags_beside_it_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--dataset_config names .*gone\.toml, which isn't there"):
        read_sources(tmp_path / "gone.toml")
    with pytest.raises(ValueError, match="--train_data_dir is given beside --dataset_config"):
        parse_settings(["--dataset_config", "a.toml", "--train_data_dir", "b"])


@pytest.mark.parametrize(("kind", "words"), [("metadata", r"has no metadata\.jsonl, "), ("caption", r"a\.caption")])
def test_captions_that_are_not_where_they_are_said_to_be_are_told(tmp_path, kind, words):
    put(tmp_path, "in/a.png", "a")
    put(tmp_path, "in/b.png", "b", end=".caption")
    with pytest.raises(FileNotFoundError, match=words):
        described(tmp_path, f'[[folders]]\npath = "in"\ncaptions = "{kind}"\n')


def shape(batch):
    assert batch.conditioning.time_ids is not None
    return batch.conditioning.time_ids[0, 4:].tolist()


def test_folders_have_their_own_size_and_flips_and_are_met_as_often_as_they_say(tmp_path, tiny_pipeline_folder):
    make_photos(tmp_path / "large", "land.jpg", "port.jpg", smaller=10)
    make_photos(tmp_path / "small", "turned.jpg", smaller=10)
    (tmp_path / "set.toml").write_text(
        '[[folders]]\npath = "large"\nresolution = 32\n[[folders]]\npath = "small"\nrepeats = 4\nflip = true\n'
    )
    settings = parse_settings(["--dataset_config", str(tmp_path / "set.toml"), "--train_batch_size", "2"])
    parts = load_parts(str(tiny_pipeline_folder))
    images = load_split(settings, 16).training
    framing = framing_of(settings.data, 16, images, parts)
    assert shapes_of(images, framing) == {(12, 20): 1, (24, 40): 1, (40, 24): 1} and framing.is_random(images)
    batches = training_batches(settings, parts, images, framing, quiet=True)
    met = [tuple(shape(batches(step))) for step in range(batches.order.batches(10))]
    assert [met.count(shape) for shape in ((20, 12), (40, 24), (24, 40))] == [20, 5, 5]


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_tells_what_it_was_trained_on(train_only, tmp_path):
    make_photos(tmp_path / "5_mine", "land.jpg", "port.jpg", smaller=20, captions=False)
    (tmp_path / "set.yaml").write_text("folders:\n- path: 5_mine\n  trigger_word: rex\n")
    flags = ("--dataset_config", tmp_path / "set.yaml", "--train_data_dir", None, "--max_train_steps", None)
    run = train_only(*flags, "--num_train_epochs", 1)
    about = json.loads((run / "run.json").read_text())["dataset"]
    assert (about["pictures"], about["in_an_epoch"]) == (2, 10)
    assert about["folders"][0]["repeats"] == 5 and about["folders"][0]["path"] == str(tmp_path / "5_mine")
    assert len((run / "log.jsonl").read_text().splitlines()) == 5  # 10 pictures, 2 a batch


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ('mask = "masks"\n', [], r"toml has mask = .*masks', which does nothing without --masked_loss"),
        ("", ["--prior_loss_weight", "0.5"], r"--prior_loss_weight is 0.5, and no folder of .*toml is is_reg"),
    ],
)
def test_a_training_refuses_what_it_would_ignore_and_an_inspection_takes_it(tmp_path, text, words, said):
    put(tmp_path, "texts/a.png", "a cat")
    images = described(tmp_path, '[[folders]]\npath = "texts"\n' + text)
    assert len(images) == 1
    settings, anything = parse_settings(["--dataset_config", str(tmp_path / "set.toml"), *words]), cast(Any, None)
    with pytest.raises(ValueError, match=said):
        preparing.prepare_data(settings, anything, 16, anything, RunFolder(tmp_path / "run"), None, anything)
    goes_on = tmp_path / "run/checkpoint-2"
    with pytest.raises(AttributeError):  # of what isn't given here: it comes to what follows
        preparing.prepare_data(settings, anything, 16, anything, RunFolder(tmp_path / "run"), goes_on, anything)
