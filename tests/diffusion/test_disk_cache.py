"""The cache on disk: equal to none bit for bit, shared, made anew where anything changes or is damaged."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslora_sd.diffusion import disk_cache, encoded, encoded_captions
from reslora_sd.diffusion.ahead import in_order, workers_here
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import training_batches
from reslora_sd.diffusion.captioned import CaptionedImages
from reslora_sd.diffusion.conditioning import chunks_of
from reslora_sd.diffusion.data import load_split
from reslora_sd.diffusion.disk_cache import FOLDER, DiskCache, fingerprint, key_of
from reslora_sd.diffusion.emphasis import Emphasis
from reslora_sd.diffusion.encodings import encodings_of
from reslora_sd.diffusion.framing import Framing, framing_of
from reslora_sd.diffusion.models import load_parts
from reslora_sd.runs.jsonl import read_jsonl
from tests.photos import make_photos

PHOTOS = ("icon.png", "land.jpg", "port.jpg", "turned.jpg", "press.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos", *PHOTOS, smaller=10)


@pytest.fixture
def made(photos, tiny_pipeline_folder, monkeypatch):
    """Makes batches of the photos, and counts what VAE and text encoder were asked for."""
    parts, counts = load_parts(str(tiny_pipeline_folder)), dict[str, int]()
    encode, encode_captions = type(parts.vae).encode, encoded_captions.encode_captions

    def note_picture(vae, *pixels, **more):
        counts["pictures"] = counts.get("pictures", 0) + 1
        return encode(vae, *pixels, **more)

    def note_captions(parts, captions, quiet):
        counts["captions"] = counts.get("captions", 0) + len(captions)
        return encode_captions(parts, captions, quiet)

    monkeypatch.setattr(type(parts.vae), "encode", note_picture)
    monkeypatch.setattr(encoded_captions, "encode_captions", note_captions)

    def make(*words, cache=None, steps=6, workers=0, data=photos, change=None, processes=1, rank=0):
        counts.clear()
        settings = parse_settings(["--train_data_dir", str(data), "--train_batch_size", "2", *map(str, words)])
        if change:
            change(parts)
        parts.chunks = chunks_of(parts, settings.data.max_token_length)
        parts.encodings = encodings_of(None if cache is None else str(cache), parts)
        resolution = settings.data.resolution or 16
        images = load_split(settings, resolution).training
        framing = framing_of(settings.data, resolution, images, parts)
        maker = training_batches(settings, parts, images, framing, processes, rank, quiet=True)
        maker.ahead(0, steps, workers)
        return [maker(step) for step in range(steps)], dict(counts)

    return make


def equal(one, two):
    both = zip(one, two, strict=True)
    return all(
        torch.equal(a.latents, b.latents) and torch.equal(a.conditioning.embeddings, b.conditioning.embeddings)
        for a, b in both
    )


@pytest.mark.parametrize(("words", "small"), [((), False), (("--random_flip",), True), (("--no_buckets",), False)])
def test_batches_are_equal_bit_for_bit_and_nothing_is_encoded_twice(made, tmp_path, monkeypatch, words, small):
    if small:  # nothing is kept in memory
        for module in (encoded, encoded_captions):
            monkeypatch.setattr(module, "IN_MEMORY", 0)
    plain, _ = made(*words)
    first, counts = made(*words, cache=tmp_path)
    again, none = made(*words, cache=tmp_path)
    assert equal(plain, first) and equal(plain, again) and counts["captions"] == len(PHOTOS) + 1
    if words != ("--no_buckets",):  # one crop of many is made for each batch, and not kept
        assert none == {} and len(PHOTOS) <= counts["pictures"] <= 2 * len(PHOTOS)


def test_whatever_changes_is_made_anew_and_copies_arent(made, tmp_path, photos):
    made(cache=tmp_path / "cache")
    moved = make_photos(tmp_path / "others", *PHOTOS, smaller=10)
    assert made(cache=tmp_path / "cache", data=moved)[1] == {}
    Image.new("RGB", (60, 60), "red").save(moved / "icon.png")
    (moved / "icon.txt").write_text("something else")
    assert made(cache=tmp_path / "cache", data=moved)[1] == {"pictures": 1, "captions": 1}
    for words in (("--resolution", 24), ("--image_interpolation_mode", "nearest")):
        assert made(*words, cache=tmp_path / "cache")[1] == {"pictures": len(PHOTOS)}
    assert made("--max_token_length", 44, cache=tmp_path / "cache")[1] == {"captions": len(PHOTOS) + 1}

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = not before
    try:
        assert made(cache=tmp_path / "cache")[1] == {"pictures": len(PHOTOS), "captions": len(PHOTOS) + 1}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before

    def train(parts):
        parts.vae.encoder.conv_in.bias.data[0] += 1e-3
        parts.text_encoder.get_input_embeddings().weight.data[3, 3] += 1e-3

    counts = made(cache=tmp_path / "cache", change=train)[1]
    assert counts == {"pictures": len(PHOTOS), "captions": len(PHOTOS) + 1}


def test_processes_share_the_work_and_each_finds_what_the_others_made(made, tmp_path, monkeypatch):
    for module in (encoded, encoded_captions):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    counts = [made(cache=tmp_path, processes=2, rank=rank, steps=0)[1] for rank in range(2)]
    assert [one["pictures"] for one in counts] == [3, 2] and [one["captions"] for one in counts] == [3, 3]
    both = [made(cache=tmp_path, processes=2, rank=rank, steps=2) for rank in range(2)]
    assert both[0][1] == both[1][1] == {} and len(both[0][0][0].latents) == 2


def test_masks_are_kept_with_their_pictures(made, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.new("RGBA", (32, 32), (9, 9, 9, 0))
    picture.paste((200, 9, 9, 255), (0, 0, 16, 8))
    picture.save(folder / "a.png")
    (folder / "a.txt").write_text("a")
    plain, _ = made("--masked_loss", data=folder)
    made("--masked_loss", data=folder, cache=tmp_path / "cache")
    again, counts = made("--masked_loss", data=folder, cache=tmp_path / "cache")
    assert counts == {} and equal(plain, again)
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-9] + b"\1" * 9, lambda _: b""]
)
def test_a_damaged_entry_is_made_anew_and_told(made, tmp_path, damage, caplog):
    plain, _ = made()
    made(cache=tmp_path)
    files = sorted((tmp_path / FOLDER).rglob("*.safetensors"))
    assert len(files) == 2 * len(PHOTOS) + 1
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    (tmp_path / FOLDER / "contents.json").write_text("[")
    again, counts = made(cache=tmp_path)
    assert equal(plain, again) and counts["pictures"] == len(PHOTOS) and counts["captions"] >= len(PHOTOS)
    assert caplog.text.count("is damaged, and is made anew") == 1
    assert made(cache=tmp_path)[1] == {}


def write(folder, seed):
    cache = DiskCache(folder)
    for number in range(50):
        cache.put(key_of(number), {"a": torch.full((99,), float(number))})


def test_processes_that_write_at_once_leave_whole_entries(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=write, args=(tmp_path, seed)) for seed in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    cache = DiskCache(tmp_path)
    assert cache.get(key_of(0), {"a": (98,)}) is None and cache.damaged == 1
    cache = DiskCache(tmp_path)
    found = [cache.get(key_of(number), {"a": (99,)}) for number in range(50)]
    assert [entry and float(entry["a"].mean()) for entry in found] == list(range(50))
    assert cache.size()[0] == 50 and not list(tmp_path.rglob("*.tmp")) and cache.damaged == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_cache_that_may_only_be_read_is_read_and_a_full_disk_is_told(tmp_path, monkeypatch, caplog, number):
    write(tmp_path, 0)
    (tmp_path / "data").write_bytes(b"data")
    os.utime(tmp_path / "data", (1e9, 1e9))

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(disk_cache, "write_json", refuse)
    cache = DiskCache(tmp_path)
    cache.content(str(tmp_path / "data"))
    cache.remember()
    if number == errno.ENOSPC:
        with pytest.raises(ValueError, match=r"can't be written \(No space left.*Make room"):
            cache.put("ff" * 32, {"a": torch.zeros(1)})
    else:
        cache.put("ff" * 32, {"a": torch.zeros(1)})
    assert cache.get(key_of(0), {"a": (99,)}) is not None and not cache.has("ff" * 32)
    assert caplog.text.count("can't be written") == 1


def test_the_size_counts_entries_alone_and_bears_that_others_remove_some(tmp_path, monkeypatch):
    write(tmp_path, 0)
    (tmp_path / key_of(0)[:2] / ".a.safetensors.00000000.tmp").touch()
    (tmp_path / "no").touch()
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*listed(folder), "gone.safetensors"])
    assert DiskCache(tmp_path).size()[0] == 50


def test_a_file_is_read_again_only_where_it_changed(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    cache = DiskCache(tmp_path / "cache")
    first = cache.content(str(file))
    file.write_bytes(b"two")
    assert cache.content(str(file)) != first  # too new to be remembered
    os.utime(file, (1e9, 1e9))
    second = cache.content(str(file))
    cache.remember()
    other = DiskCache(tmp_path / "cache")
    assert json.loads((tmp_path / "cache/contents.json").read_text())[str(file)][2] == second
    file.write_bytes(b"six")
    os.utime(file, (1e9, 1e9))
    assert other.content(str(file)) == second  # of the same size and time: nothing was read
    os.utime(file, (2e9 - 1e9, 1e9 + 1))
    assert other.content(str(file)) != second


def test_a_models_name_is_of_its_weights_and_not_of_its_place(tiny_pipeline_folder, tmp_path):
    copy = shutil.copytree(tiny_pipeline_folder, tmp_path / "copy")
    one, two = load_parts(str(tiny_pipeline_folder)), load_parts(str(copy))
    assert fingerprint(one.vae) == fingerprint(two.vae) and fingerprint(one.unet) != fingerprint(one.vae)
    assert fingerprint(one.vae.half()) != fingerprint(two.vae)


@pytest.mark.parametrize("cached", [False, True])
def test_workers_make_the_same_batches_ahead(made, tmp_path, cached):
    words, cache = ("--no_buckets", "--random_flip"), tmp_path if cached else None
    assert equal(made(*words)[0], made(*words, cache=cache, workers=2)[0])


def test_what_is_wrong_in_a_worker_is_told_as_it_is(tmp_path):
    def make(place):
        if place == 2:
            raise ValueError("Picture 2 is broken")
        return [torch.full((2,), float(place)), {"place": place}]

    made = in_order(make, range(4), 1)
    assert [int(next(made)[0].sum()) for _ in range(2)] == [0, 2]
    with pytest.raises(ValueError, match=r"^Picture 2 is broken$"):
        next(made)


def test_masks_kept_in_memory_hold_no_open_files(tiny_pipeline_folder):
    picture = Image.new("RGBA", (16, 16), (9, 9, 9, 0))
    picture.paste((200, 9, 9, 255), (0, 0, 16, 8))
    images = CaptionedImages(["a"] * 60, lambda _: picture, "a data set")
    parts, limits = load_parts(str(tiny_pipeline_folder)), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, limits[1]))
    try:
        share, emphasis = encoded_captions.Share(workers=1), Emphasis(masked=True)
        found = encoded.EncodedImages(parts, images, Framing(16), True, True, emphasis=emphasis, share=share)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found.in_memory and all(found._kept[row].mask is not None for row in range(60))


def test_workers_take_nothing_of_what_dropout_is_drawn_from(monkeypatch, caplog):
    before = torch.get_rng_state()
    assert list(in_order(str, range(3), 1)) == ["0", "1", "2"]
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert (workers_here(2), workers_here(0)) == (0, 0) and "needs Linux" in caplog.text


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_says_what_was_cached_and_how_long_it_waited(train_only, photos, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    pixels = Framing.pixels

    def note(framing, image, frame):
        (tmp_path / f"{os.getpid()}.pid").touch()
        return pixels(framing, image, frame)

    monkeypatch.setattr(Framing, "pixels", note)
    flags = ("--resolution", 16, "--random_flip", "--max_train_steps", 3)
    plain = train_only(*flags, data=photos, output="plain")
    (here,) = tmp_path.glob("*.pid")
    here.unlink()
    more = ("--cache_dir", tmp_path / "cache", "--dataloader_num_workers", 2)
    cached = train_only(*flags, *more, data=photos, output="cached")
    assert here not in (files := list(tmp_path.glob("*.pid"))) and len(files) >= 2
    assert f"in {tmp_path / 'cache' / FOLDER}: " in caplog.text
    rows = [read_jsonl(run / "log.jsonl") for run in (plain, cached)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert all(0 <= row["waiting"] <= 1 for row in rows[0] + rows[1])
