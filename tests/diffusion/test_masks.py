"""`--masked_loss`: masks are framed as their pictures are, and say which errors count."""

import numpy as np
import pytest
import torch
from PIL import Image

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import training_batches
from reslora_sd.diffusion.data import load_split
from reslora_sd.diffusion.encoded import EncodedImages
from reslora_sd.diffusion.framing import framing_of
from reslora_sd.diffusion.loss import squared_errors
from reslora_sd.diffusion.masks import find_masks
from reslora_sd.diffusion.models import load_parts

SIZES = {"wide": (96, 32), "high": (40, 90), "square": (48, 48)}


@pytest.fixture(scope="module")
def parts(tiny_pipeline_folder):
    return load_parts(str(tiny_pipeline_folder))


@pytest.fixture
def photos(tmp_path):
    """Pictures that are white in one corner, and a mask of the same: half as large, and of another kind of file."""
    (tmp_path / "photos/in").mkdir(parents=True)
    (tmp_path / "masks/in").mkdir(parents=True)
    for name, (width, height) in SIZES.items():
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[: height // 2, : width // 2] = 255
        picture = Image.fromarray(pixels)
        picture.save(tmp_path / f"photos/in/{name}.png")
        (tmp_path / f"photos/in/{name}.txt").write_text(f"a {name} one")
        picture.convert("L").resize((width // 2, height // 2)).save(tmp_path / f"masks/in/{name}.bmp")
    return tmp_path / "photos"


def batches(parts, photos, *words):
    given = ["--train_data_dir", str(photos), "--train_batch_size", "2", *map(str, words)]
    given += [] if "--masked_loss" in given else ["--masked_loss"]
    settings = parse_settings(given)
    images = load_split(settings, 32).training
    framing = framing_of(settings.data, 32, images, parts)
    return training_batches(settings, parts, images, framing, quiet=True)


@pytest.mark.parametrize(
    "words",
    [
        ("--random_flip",),
        ("--no_buckets", "--random_flip"),
        ("--no_buckets", "--center_crop"),
    ],
)
def test_a_mask_is_cropped_flipped_and_scaled_as_its_picture_is(parts, photos, words, monkeypatch):
    maker, seen = batches(parts, photos, "--mask_data_dir", photos.parent / "masks", *words), []
    honest = EncodedImages.prepared

    def note(self, rows, frames):
        seen.extend(found := honest(self, rows, frames))
        return found

    monkeypatch.setattr(EncodedImages, "prepared", note)
    for step in range(8):
        weights = maker(step).weights
        assert weights is not None and ((weights.mean((1, 2, 3)) - 1).abs() < 1e-5).all()
    for one in seen:
        if one.pixels is not None and one.mask is not None:  # white is 1, black -1
            white = torch.nn.functional.avg_pool2d((one.pixels[:1] + 1) / 2, parts.pixels_per_latent)
            assert one.mask.shape == white.shape and float((one.mask - white).abs().mean()) < 0.06


def test_alpha_is_a_mask_and_a_picture_without_one_counts_as_a_whole(parts, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "photos"
    folder.mkdir()
    clear = Image.new("RGBA", (32, 32), (9, 9, 9, 0))
    clear.paste((9, 9, 9, 255), (0, 0, 32, 8))
    clear.save(folder / "a.png")
    Image.new("RGB", (32, 32)).save(folder / "b.png")
    for name in "ab":
        (folder / f"{name}.txt").write_text(name)
    weights = batches(parts, folder, "--masked_loss")(0).weights
    assert "1 of 2 pictures have a mask; the others count as a whole" in caplog.text
    assert weights is not None and weights.shape == (2, 1, 16, 16)
    masked = weights[weights.std((1, 2, 3)) > 0][0, 0]
    assert (masked[:4] == 4).all() and (masked[4:] == 0).all()
    assert (weights[weights.std((1, 2, 3)) == 0] == 1).all()
    softer = batches(parts, folder, "--unmasked_weight", 0.5)(0).weights
    assert softer is not None
    masked = softer[softer.std((1, 2, 3)) > 0][0, 0]
    torch.testing.assert_close((masked[0, 0], masked[15, 0]), (torch.tensor(1.6), torch.tensor(0.8)))


def test_errors_outside_a_mask_dont_count():
    prediction, target, weights = torch.ones(2, 4, 4, 4), torch.zeros(2, 4, 4, 4), torch.zeros(2, 1, 4, 4)
    weights[0, 0, 0, 0], weights[1] = 16, 1
    prediction[0, :, 0, 0] = 3
    torch.testing.assert_close(squared_errors(prediction, target, weights), torch.tensor([9.0, 1.0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda masks: (masks / "in/wide.bmp").write_bytes(b"no picture"), "The mask .*wide.bmp can't be read"),
        (
            lambda masks: Image.new("L", (9, 90), 255).save(masks / "in/wide.bmp"),
            "wide.bmp is 9x90, and its picture",
        ),
        (lambda masks: Image.new("L", (96, 32)).save(masks / "in/wide.bmp"), "wide.bmp is black"),
        (lambda masks: masks.rename(masks.with_name("gone")), "masks isn't there"),
        (
            lambda masks: [file.rename(file.with_stem(file.stem + "2")) for file in masks.glob("in/*")],
            "has no mask of any",
        ),
    ],
)
def test_masks_that_cant_be_used_are_named(parts, photos, change, words):
    change(photos.parent / "masks")
    with pytest.raises(ValueError, match=words):
        batches(parts, photos, "--mask_data_dir", photos.parent / "masks")


def test_without_any_mask_the_flag_is_refused(photos):
    with pytest.raises(ValueError, match=r"no picture of .*photos has a mask. Name their folder with --mask_data_dir"):
        load_split(parse_settings(["--train_data_dir", str(photos), "--masked_loss"]), 32)


def test_masks_of_a_described_folder_and_any_place_by_name(parts, photos):
    masks = photos.parent / "masks"
    for file in masks.glob("in/*"):
        file.rename(masks / file.name)
    (photos.parent / "set.toml").write_text('[[folders]]\npath = "photos"\nmask = "masks"\n')
    settings = parse_settings(["--dataset_config", str(photos.parent / "set.toml"), "--masked_loss"])
    found = load_split(settings, 32).training.masks
    assert sorted(file.rpartition("/")[2] for file in found if file) == ["high.bmp", "square.bmp", "wide.bmp"]


def test_no_picture_gets_the_mask_of_another_of_its_name(tmp_path, caplog):
    for name in ("photos/a/1.jpg", "photos/b/1.jpg", "photos/b/2.jpg", "photos/c/3.jpg", "masks/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("2.png", "x/3.png", "y/3.png"):
        (tmp_path / "masks" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "masks" / name).touch()
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    files = [str(file) for file in sorted(photos.rglob("*.jpg"))]
    found = find_masks(masks, files, photos)
    assert found == {files[0]: str(masks / "a/1.png"), files[2]: str(masks / "2.png")}
    assert "2 pictures count as a whole" in caplog.text and f"{files[1]} could have" in caplog.text
    (masks / "a/1.bmp").touch()
    with pytest.raises(ValueError, match=r"1.bmp and .*1.png are both masks of .*a.1.jpg"):
        find_masks(masks, files, photos)


def test_a_part_without_any_mask_is_no_error_where_others_have_one(photos):
    masks = photos.parent / "masks"
    for name in ("wide", "high"):
        (masks / f"in/{name}.bmp").unlink()
    words = ["--train_data_dir", str(photos), "--masked_loss", "--mask_data_dir", str(masks)]
    for seed in range(3):
        assert (
            len(load_split(parse_settings([*words, "--max_train_samples", "1", "--seed", str(seed)]), 32).training) == 1
        )
    split = load_split(parse_settings([*words, "--test_samples", "2"]), 32)
    assert split.test is not None and sum(map(bool, split.training.masks + split.test.masks)) == 1
