"""Tar files as a source: pictures, draws and cache as a folder has them, and clear words for what is wrong."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from reslora_sd.diffusion import tar_members
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import training_batches
from reslora_sd.diffusion.class_pictures import check_class_folder
from reslora_sd.diffusion.data import load_pictures, load_split
from reslora_sd.diffusion.encodings import encodings_of
from reslora_sd.diffusion.framing import framing_of
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.pictures import as_rgb
from reslora_sd.diffusion.settings import DataSettings
from tests.damage import Trials
from tests.damaged_kinds import Kind
from tests.photos import make_photos, upright
from tests.pickled import WritesMarker

PHOTOS = ("icon.png", "land.jpg", "port.jpg", "press.jpg", "turned.jpg")


def pack(shard, members):
    """Writes a tar of these members: bytes, or `TarInfo`s."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, dict):
                for field, value in data.items():
                    setattr(info, field, value)
                data = b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return shard


def files_of(folder, *names):
    return [(file.name, file.read_bytes()) for name in names for file in sorted(folder.glob(f"{Path(name).stem}.*"))]


def table(file, **values):
    """Writes a parquet file of a row."""
    parquet.write_table(pyarrow.Table.from_pylist([values]), file)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos", *PHOTOS, smaller=10)


@pytest.fixture
def shards(photos, tmp_path):
    pack(tmp_path / "shards" / "0.tar", files_of(photos, *PHOTOS[:3]))
    pack(tmp_path / "shards" / "1.tar", files_of(photos, *PHOTOS[3:]))
    return tmp_path / "shards"


def load(path, **more):
    return load_pictures(DataSettings(train_data_dir=str(path), **more))


PICTURE = ("a/1.png", b"no picture, which nobody asks before it is opened")


def test_pictures_captions_sizes_and_contents_are_those_of_a_folder(photos, shards):
    folder, packed = load(photos), load(shards)
    assert packed.captions == folder.captions and packed.sizes == folder.sizes
    assert packed.sizes == [tuple(side // 10 for side in upright(name)) for name in PHOTOS]
    for row in range(len(PHOTOS)):
        assert packed.content(row) == folder.content(row) and packed.stored_size(row) == folder.stored_size(row)
        assert as_rgb(packed.image(row)).tobytes() == as_rgb(folder.image(row)).tobytes()
    assert packed.label(4) == f"{shards / '1.tar'}, turned.jpg"


@pytest.fixture
def batches(tiny_pipeline_folder):
    parts = load_parts(str(tiny_pipeline_folder))

    def make(data, steps, *words, cache=None, workers=0, processes=1, rank=0):
        settings = parse_settings(
            ["--train_data_dir", str(data), "--train_batch_size", "2", "--resolution", "16", *words]
        )
        parts.encodings = encodings_of(None if cache is None else str(cache), parts)
        images = load_split(settings, 16).training
        maker = training_batches(
            settings, parts, images, framing_of(settings.data, 16, images, parts), processes, rank, True
        )
        maker.ahead(steps[0], steps[-1] + 1, workers)
        return [maker(step) for step in steps]

    return make


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.latents, b.latents) and torch.equal(a.noise, b.noise)
        assert torch.equal(a.conditioning.embeddings, b.conditioning.embeddings)


@pytest.mark.parametrize("words", [(), ("--no_buckets", "--center_crop", "false", "--random_flip")])
def test_each_step_of_each_process_sees_what_a_folder_shows_whenever_it_begins(photos, shards, batches, words):
    for rank in (0, 1):
        straight = batches(photos, range(4), *words, processes=2, rank=rank)
        assert_equal(straight, batches(shards, range(4), *words, processes=2, rank=rank))
        assert_equal(straight[2:], batches(shards, range(2, 4), *words, processes=2, rank=rank, workers=1))


def test_the_cache_on_disk_is_shared_with_folders_and_members_are_not_read_again(
    photos, shards, batches, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    for file in shards.iterdir():
        os.utime(file, (1e9, 1e9))
    made = batches(photos, range(3), cache=cache)
    entries = sorted(cache.rglob("*.safetensors"))
    assert_equal(made, batches(shards, range(3), cache=cache))
    assert sorted(cache.rglob("*.safetensors")) == entries
    read, sizes = tar_members.Member.read, list[int]()

    def note(member, *file):
        sizes.append(member.size)
        return read(member, *file)

    monkeypatch.setattr(tar_members.Member, "read", note)
    assert_equal(made, batches(shards, range(3), cache=cache))
    assert max(sizes) < 20, "captions alone: a second run knows the contents of the pictures"


def test_captions_stand_in_text_caption_or_json_and_numbered_folders_repeat(tmp_path):
    both = json.dumps({"caption": "of json", "url": "x", "words": ["one", "two"]}).encode()
    pack(tmp_path / "0.tar", [PICTURE, ("a/1.json", both), ("a/1.txt", b"of text\nmore"), ("./b.PNG", b"-")])
    with pytest.raises(FileNotFoundError, match=r"1 of 2 .* no caption, such as .*0.tar, b.PNG. Write that into b.txt"):
        load(tmp_path)
    pack(tmp_path / "0.tar", [PICTURE, ("a/1.json", both), ("a/1.txt", b"of text\nmore")])
    assert load(tmp_path / "0.tar").captions == [["of text"]]
    (tmp_path / "set.toml").write_text('[[folders]]\npath = "0.tar"\ncaptions = "metadata"\nrepeats = 3')
    config = DataSettings(dataset_config=str(tmp_path / "set.toml"))
    assert load_pictures(config).captions == [["of json"]] and load_pictures(config).repeats == [3]
    (tmp_path / "set.toml").write_text('[[folders]]\npath = "0.tar"\ncaptions = "metadata"\ncaption_column = "words"')
    assert load_pictures(config).captions == [["one", "two"]]
    pack(tmp_path / "kohya" / "0.tar", [("10_rex/1.png", b"-"), ("2_toy/1.png", b"-"), ("2_toy/1.txt", b"my toy")])
    found = load(tmp_path / "kohya")
    assert (found.captions, found.repeats) == ([["rex"], ["my toy"]], [10, 2])
    pack(tmp_path / "outside" / "4_cat" / "0.tar", [("1.png", b"-")])
    assert (load(tmp_path / "outside").captions, load(tmp_path / "outside").repeats) == ([["cat"]], [4])


def test_what_is_left_out_is_told_and_pickles_are_never_opened(tmp_path, caplog):
    marker = pickle.dumps(WritesMarker(tmp_path / "marker"))
    members = [PICTURE, ("a/1.txt", b"one"), ("a/1.pyd", marker), ("a/1.seg.png", b"-"), ("__MACOSX/x", b"-")]
    pack(tmp_path / "data" / "0.tar", [*members, ("a", {"type": tarfile.DIRTYPE}), ("b.txt", b"alone")])
    table(tmp_path / "data" / "0.parquet", key="0001", url="https://x/1.png", caption="one", error_message=None)
    with caplog.at_level("INFO"):
        assert len(load(tmp_path / "data")) == 1
    for words in ("pickles, which are never opened: 1, such as 0.tar/a/1.pyd", "several dots", "hidden files: 1"):
        assert words in caplog.text
    for words in ("members without a picture: 1, such as 0.tar/b.txt", "tables beside tar files of their names"):
        assert words in caplog.text
    assert not (tmp_path / "marker").exists()


def test_pictures_of_a_folder_count_before_its_tar_files(photos, tmp_path, caplog):
    folder = make_photos(tmp_path / "both", "icon.png", smaller=10)
    pack(folder / "backup.tar", files_of(photos, *PHOTOS))
    assert len(load(folder)) == 1
    assert "tar files beside pictures or tables, which alone are read: 1, such as backup.tar" in caplog.text


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
TEXT = ("a/1.txt", b"one")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("../1.png", b"-")], r"named '../1.png', which lies outside"),
        ([("/tmp/1.png", b"-")], "lies outside"),
        ([("a/1.png", LINK)], "a/1.png is a link to '/etc/passwd'. Write files instead: tar --dereference"),
        ([("a/1.png", {"type": tarfile.FIFOTYPE})], "no plain file"),
        ([PICTURE, PICTURE, TEXT], "has a/1.png twice"),
        ([PICTURE, ("a/1.jpg", b"-"), TEXT], "two pictures of one name: a/1.png and a/1.jpg"),
        ([PICTURE, ("a/1.txt", b" \n")], "1.txt is empty"),
        ([PICTURE, ("a/1.txt", b"\xff\xfea")], "is no UTF-8 text"),
        ([PICTURE, ("a/1.txt", bytes(2**20 + 1))], "1048577 bytes, which is no caption"),
        ([PICTURE, ("a/1.json", b"[" * 100_000)], "is no JSON"),
        ([PICTURE, ("a/1.json", b'{"caption": 3}')], "'caption' is 3"),
        ([PICTURE, ("a/1.json", b'{"url": "x"}')], r"has no 'text' or 'caption' or .*, but 'url'"),
        ([TEXT], "hold no pictures"),
    ],
)
def test_what_a_shard_may_not_hold_is_told_with_its_name(tmp_path, members, words):
    shard = pack(tmp_path / "0.tar", members)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load(shard)
    assert str(shard) in str(error.value)


def _half(data):
    return data[: 512 * 3 + 100]


def _huge(data):  # a long name that says it has 8 GB
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30 - 1
    return info.tobuf() + data


def _negative(data):
    head = bytearray(data[:512])
    head[124:136] = b"\xff" * 11 + b"\x00"  # base 256
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_half, "unexpected end of data"),
        (lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512), "its end is missing"),
        (lambda data: data[:1024] + b"x" * 512 + data[1536:], "its header at byte 1024 is damaged"),
        (lambda data: data + data, "several tar files were joined"),
        (lambda data: b"\x1f\x8b" + data, "compressed with gzip: unpack it"),
        (lambda data: b"", "empty file"),
        (_huge, "8589934592 bytes"),
        (_negative, "beyond its end|bytes|header"),
    ],
)
def test_a_damaged_truncated_or_compressed_shard_is_told_before_training(tmp_path, damage, words):
    shard = pack(tmp_path / "0.tar", [PICTURE, TEXT])
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ValueError, match=rf"(?s)0.tar can't be read \(.*({words})"):
        load(shard)


def test_whatever_is_damaged_in_a_shard_gives_one_sentence_that_names_it(photos, tmp_path):
    def make(folder):
        pack(folder / "data" / "0.tar", [*files_of(photos, "icon.png"), (f"{'a' * 150}.png", b"-"), ("1.json", b"{}")])

    def read(folder):
        images = load(folder / "data")
        for row in range(len(images)):
            images.image(row)

    trials = Trials(tmp_path, (Kind("shard", ("data/0.tar",), make, read),))
    assert [fault for number in range(60) if (fault := trials.run(number, seed=3))] == []


def test_a_shard_that_changes_later_and_archives_of_other_kinds_are_told(shards, tmp_path):
    images = load(shards)
    os.utime(shards / "0.tar", (1, 1))
    with pytest.raises(ValueError, match=r"0.tar has changed since its headers were read"):
        images.image(0)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(FileNotFoundError, match=r"no pictures, but 0.tar.gz. Unpack it to a plain .tar"):
        load(tmp_path / "packed")
    with pytest.raises(ValueError, match=r"--image_column is 'x', but .* tar files, which have no columns"):
        load(shards, image_column="x")
    of_class = DataSettings(with_prior_preservation=True, class_data_dir=str(shards), class_prompt="a dog")
    with pytest.raises(ValueError, match="is a table or tar file"):
        check_class_folder(of_class)
