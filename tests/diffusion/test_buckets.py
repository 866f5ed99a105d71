"""Which bucket a picture gets, and what is known of each afterwards."""

import random

import pytest
import torch
from PIL import Image

from reslora_sd.diffusion import captioned
from reslora_sd.diffusion.arguments import parse_settings, settings_of, to_arguments
from reslora_sd.diffusion.batches import training_batches
from reslora_sd.diffusion.buckets import Buckets, buckets_of
from reslora_sd.diffusion.data import load_images, load_split
from reslora_sd.diffusion.framing import Framing, framing_of, say_shapes, shapes_of
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.settings import DataSettings
from tests.photos import SIZES, make_photos, upright

AT_512 = buckets_of(DataSettings(), 512, 8, 64)


def test_the_rule_of_512_pixels_is_kohyas():
    assert Buckets(512, step=64, low=256, high=1024) == AT_512
    assert buckets_of(DataSettings(), 1024, 8, 64) == Buckets(1024, step=64, low=512, high=2048)
    assert buckets_of(DataSettings(), 64, 4, 8) == Buckets(64, step=8, low=32, high=128)  # the embedded model
    assert buckets_of(DataSettings(), 16, 2, 16).step == 2  # smaller than the U-Net likes


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((2000, 2000), (512, 512)),
        ((6000, 4000), (640, 384)),  # kohya's buckets of 3 to 2, too
        ((4000, 6000), (384, 640)),
        ((8000, 5000), (640, 384)),
        ((8000, 1000), (1024, 256)),  # longer than any
        ((400, 300), (384, 256)),  # has less than the area
        ((511, 511), (448, 448)),
        ((60, 60), (256, 256)),  # below the smallest side: enlarged to it
        ((600, 60), (1024, 256)),
        ((4000, 1), (1024, 256)),
    ],
)
def test_a_picture_gets_the_bucket_most_like_it_that_it_covers(size, bucket):
    assert AT_512.of(size) == bucket
    assert AT_512.of(size[::-1]) == bucket[::-1]


def test_no_picture_is_enlarged_unless_asked_or_too_small():
    rng = random.Random(0)
    larger = Buckets(512, 64, 256, 1024, upscale=True)
    for _ in range(2000):
        size = (rng.randint(256, 3000), rng.randint(256, 3000))
        width, height = AT_512.of(size)
        assert width <= size[0] and height <= size[1] and width * height <= 512 * 512
        assert width % 64 == height % 64 == 0 and min(width, height) >= 256 and max(width, height) <= 1024
        width, height = larger.of(size)
        assert 0.7 * 512 * 512 < width * height <= 512 * 512


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"bucket_step": 12}, "multiple of 8 for this model: take 8 or 16"),
        ({"bucket_step": 3}, "take 8"),
        ({"bucket_min": 100}, "multiples of --bucket_step 64"),
        ({"bucket_min": 640}, "--bucket_min <= --resolution"),
        ({"bucket_max": 448}, "--resolution <= --bucket_max"),
    ],
)
def test_buckets_that_fit_nothing_are_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        buckets_of(DataSettings(**asked), 512, 8, 64)


def test_flags_of_buckets_without_buckets_are_refused():
    with pytest.raises(ValueError, match="--bucket_step does nothing with --no_buckets"):
        parse_settings(["--no_buckets", "--bucket_step", "32"])


def test_a_frame_says_what_sdxl_is_told():
    frame = Framing(512, buckets=AT_512).frame((6000, 4000), random.Random(0))
    assert (frame.resized, frame.target) == ((640, 427), (640, 384))
    assert frame.time_ids == (4000, 6000, 21, 0, 384, 640)
    square = Framing(512, random_flip=True)
    frames = [square.frame((1000, 500), random.Random(seed)) for seed in range(20)]
    assert {frame.target for frame in frames} == {(512, 512)} and len({frame.left for frame in frames}) > 10
    assert {frame.flipped for frame in frames} == {True, False} and {frame.top for frame in frames} == {0}


def test_photos_of_all_kinds_have_the_sizes_that_they_are_shown_at(tmp_path):
    images = load_split(parse_settings(["--train_data_dir", str(make_photos(tmp_path))]), 32).training
    assert images.sizes == [upright(name) for name in sorted(SIZES)]
    assert images.sizes == [framed(images.image(index)) for index in range(len(images))]


def framed(image):
    from reslora_sd.diffusion.pictures import as_rgb

    return as_rgb(image).size


@pytest.fixture(scope="module")
def parts(tiny_pipeline_folder):
    return load_parts(str(tiny_pipeline_folder))


def batches_of(folder, parts, *flags):
    settings = parse_settings(["--train_data_dir", str(folder), "--train_batch_size", "2", *flags])
    images = load_split(settings, 32).training
    framing = framing_of(settings.data, 32, images, parts)
    return training_batches(settings, parts, images, framing, quiet=True), images, framing


def test_photos_are_decoded_once_for_the_cache_and_told_in_their_buckets(tmp_path, parts, monkeypatch, caplog):
    decoded = []
    loaded = captioned._loaded

    def note(image):
        decoded.append(image.size)
        return loaded(image)

    monkeypatch.setattr(captioned, "_loaded", note)
    names = ("icon.png", "land.jpg", "port.jpg", "turned.jpg", "press.jpg", "scan.tiff")
    maker, images, framing = batches_of(make_photos(tmp_path, *names), parts)
    assert len(decoded) == 6
    assert sum(shapes_of(images, framing).values()) == 6 and len(shapes_of(images, framing)) == 4
    assert say_shapes(images, framing).startswith(" in 4 buckets: 3 of 24x40, 1 of")
    for step in range(6):
        batch = maker(step)
        assert batch.latents.shape == batch.noise.shape
        height, width = (2 * side for side in batch.latents.shape[2:])
        assert batch.conditioning.time_ids[:, 4:].tolist() == [[height, width]] * 2
        assert {tuple(size[::-1]) for size in batch.conditioning.time_ids[:, :2].tolist()} <= set(map(upright, names))
    assert torch.equal(maker(3).latents, batches_of(tmp_path, parts)[0](3).latents)


def test_cached_and_fresh_latents_are_the_same_in_buckets(tmp_path, parts):
    folder = make_photos(tmp_path, "land.jpg", "port.jpg", "icon.png")
    cached, fresh = (batches_of(folder, parts, flag)[0] for flag in ("--cache_latents", "--no_cache_latents"))
    for step in range(4):
        torch.testing.assert_close(cached(step).latents, fresh(step).latents, rtol=1e-5, atol=1e-5)


def test_a_damaged_photo_is_named_before_training_with_and_without_the_cache(tmp_path, parts):
    folder = make_photos(tmp_path, "land.jpg", "port.jpg")
    whole = (folder / "port.jpg").read_bytes()
    (folder / "port.jpg").write_bytes(whole[: len(whole) // 2])
    for flags in ((), ("--random_flip",)):
        with pytest.raises(ValueError, match=r"Picture 1 of .*port\.txt\) can't be read: .*truncated"):
            batches_of(folder, parts, *flags)


def test_a_header_that_says_another_size_than_the_pixels_is_told(tmp_path, parts, monkeypatch):
    folder = make_photos(tmp_path, "land.jpg", "port.jpg")
    monkeypatch.setattr(captioned, "upright_size", lambda image: (image.width, image.height + 7))
    with pytest.raises(ValueError, match=r"Picture 1 of .*port\.txt: it is 800x1207 by its header, and 800x1200"):
        batches_of(folder, parts)


def test_small_pictures_are_told(tmp_path, caplog):
    folder = make_photos(tmp_path, "icon.png", "land.jpg")
    say_shapes(load_images(DataSettings(train_data_dir=str(folder))), Framing(512, buckets=AT_512))
    assert (
        "1 of 2 pictures have a side below that of the smallest bucket (256) and are" in caplog.text
        and "icon.txt" in caplog.text
    )


def test_square_pictures_have_no_buckets_and_a_run_of_an_earlier_version_neither(tmp_path, parts):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a")
    assert batches_of(tmp_path, parts)[2].buckets is None
    settings = parse_settings(["--train_data_dir", str(tmp_path)])
    before = {name: value for name, value in to_arguments(settings).items() if "bucket" not in name}
    assert settings_of(before).data.buckets is False and settings.data.buckets is None
