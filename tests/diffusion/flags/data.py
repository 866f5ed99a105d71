"""Flags of the pictures: which, and how they are framed."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from tests.conftest import make_picture_folder
from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

FEW = ("--max_train_samples", 3, "--resolution", 32)
WIDE = ("--train_data_dir", "@wide")
SQUARE = (*WIDE, "--no_buckets")
FRAMED = (*SQUARE, "--center_crop", "--random_flip", "--image_interpolation_mode", "nearest")
MINE = ("--trigger_word", "sks", "--max_train_steps", 4)
SHUFFLED = (*MINE, "--shuffle_caption")
LARGE = (*WIDE, "--resolution", 64)
COLUMNS = ("--image_column", "drawing", "--caption_column", "words")
SET = ("--train_data_dir", None, "--dataset_name", "@data_set", "--dataset_config_name", "second", *COLUMNS)

elsewhere(dataset_config="test_sources.py::test_a_run_tells_what_it_was_trained_on")
elsewhere(
    **dict.fromkeys(
        ("with_prior_preservation", "class_data_dir", "class_prompt", "num_class_images"),
        "test_prior.py::test_missing_pictures_are_drawn_once_counted_and_a_stopped_drawing_goes_on",
    ),
    prior_loss_weight="test_prior.py::test_folders_of_the_class_are_never_kept_out_and_get_no_trigger_word",
    mask_data_dir="test_masks.py::test_a_mask_is_cropped_flipped_and_scaled_as_its_picture_is",
    **dict.fromkeys(
        ("masked_loss", "unmasked_weight"),
        "test_masks.py::test_alpha_is_a_mask_and_a_picture_without_one_counts_as_a_whole",
    ),
)
elsewhere(cache_latents="test_train_script.py::test_random_crops_forbid_the_cache")


def make_data_set(folder: Path) -> Path:
    """A data set of the Hub on disk: two configurations of four pictures, with two columns of each kind.

    The red of a picture says which configuration and column it is of; so do the captions.
    """
    folder.mkdir()
    configs = []
    for number, name in enumerate(("first", "second")):
        columns = {
            "image": [Image.new("RGB", (16, 16), (100 * number, 0, 0))] * 4,
            "drawing": [Image.new("RGB", (16, 16), (100 * number + 50, 0, 0))] * 4,
            "text": [f"text of {name}"] * 4,
            "words": [f"words of {name}"] * 4,
        }
        image, text = datasets.Image(), datasets.Value("string")
        kinds = datasets.Features(dict(zip(columns, (image, image, text, text), strict=True)))
        datasets.Dataset.from_dict(columns, kinds).to_parquet(folder / f"{name}.parquet")
        configs.append(f"- config_name: {name}\n  data_files: {name}.parquet\n")
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    return folder


def make_wide(folder: Path) -> Path:
    """Eight pictures of 96 x 32: red rises from left to right, green is a board of single pixels."""
    make_picture_folder(folder, size=(96, 32))
    down, across = np.indices((32, 96))
    pixels = np.stack([across * 2, (down + across) % 2 * 255, across * 0], axis=-1).astype(np.uint8)
    for file in folder.glob("*.png"):
        Image.fromarray(pixels).save(file)
    return folder


def colour(number: int) -> float:
    """A byte as the VAE gets it."""
    return float(np.float32(number) / 127.5 - 1)


def reds(it: Seen) -> set[float]:
    return {float(value) for batch in it.pixels for value in batch[:, 0].unique()}


@row("train_data_dir", *WIDE)
def its_pictures_are_trained_on(it: Seen, plain: Seen) -> None:
    assert all(picture[2].max() == colour(0) for batch in it.pixels for picture in batch)  # the others have blue 99


@row("dataset_name", *SET)
def its_train_split_is_trained_on(it: Seen, plain: Seen) -> None:
    assert it.about()["dataset"]["pictures"] == 4
    assert all(picture[1:].max() == colour(0) for batch in it.pixels for picture in batch)


@row("dataset_config_name", *SET)
def its_pictures_are_of_that_configuration(it: Seen, plain: Seen) -> None:
    assert min(reds(it)) >= colour(100) and all("second" in caption for caption in it.captions if caption)


@row("image_column", *SET)
def pictures_come_from_the_column(it: Seen, plain: Seen) -> None:
    assert reds(it) == {colour(150)}


@row("caption_column", *SET)
def captions_come_from_the_column(it: Seen, plain: Seen) -> None:
    assert it.captions == {"", "words of second"}


@row("max_train_samples", *FEW)
def so_many_pictures_are_encoded(it: Seen, plain: Seen) -> None:
    assert sum(len(batch) for batch in it.pixels) == it.about()["dataset"]["pictures"] == 3
    assert len(it.captions - {""}) == 3


@row("resolution", *FEW)
def pictures_have_so_many_pixels_a_side(it: Seen, plain: Seen) -> None:
    assert {batch.shape[2:] for batch in it.pixels} == {(32, 32)}
    assert {call["latents"].shape[2:] for call in it.losses} == {(16, 16)}


@row("trigger_word", *MINE)
def every_caption_begins_with_it(it: Seen, plain: Seen) -> None:
    assert it.captions == {"", *(f"sks, colour {number}" for number in range(8))}


@row("shuffle_caption", *SHUFFLED, without=MINE)
def tags_come_in_another_order_and_back(it: Seen, plain: Seen) -> None:
    orders = {caption.startswith("sks, ") for caption in it.captions if caption}
    assert orders == {True, False}


@row("keep_tokens", *SHUFFLED, "--keep_tokens", 1, without=SHUFFLED)
def so_many_tags_stay_in_front(it: Seen, plain: Seen) -> None:
    assert all(caption.startswith("sks, ") for caption in it.captions if caption)


@row("caption_dropout_rate", *MINE, "--caption_dropout_rate", 1, without=MINE)
def pictures_are_met_without_captions(it: Seen, plain: Seen) -> None:
    assert len(it.joined("embeddings").flatten(1).unique(dim=0)) == 1


@row("caption_tag_dropout_rate", *MINE, "--caption_tag_dropout_rate", 1, without=MINE)
def tags_are_left_out_but_the_trigger_word_is_not(it: Seen, plain: Seen) -> None:
    assert it.captions == {"", "sks"}


@row("max_token_length", "--max_token_length", 44)
def captions_have_two_chunks(it: Seen, plain: Seen) -> None:
    assert it.joined("embeddings").shape[1] == 2 * 24


def shapes(it: Seen) -> set[tuple[int, ...]]:
    """Heights and widths of what the VAE encoded."""
    return {batch.shape[2:] for batch in it.pixels}


@row("no_buckets", *SQUARE, without=WIDE)
def wide_pictures_become_squares(it: Seen, plain: Seen) -> None:
    assert shapes(it) == {(16, 16)}


@row("buckets", "--buckets", "--resolution", 32, without=("--resolution", 32))
def square_pictures_get_buckets_too_and_are_not_enlarged(it: Seen, plain: Seen) -> None:
    assert shapes(it) == {(16, 16)}


@row("bucket_step", *WIDE, "--bucket_step", 2, without=WIDE)
def sides_are_multiples_of_it(it: Seen, plain: Seen) -> None:
    """At most 256 pixels, nearly of the shape 3 to 1."""
    assert shapes(it) == {(8, 26)}


@row("bucket_min", *WIDE, "--bucket_min", 12, without=WIDE)
def no_side_is_shorter(it: Seen, plain: Seen) -> None:
    assert {height for height, _ in shapes(it)} == {12}


@row("bucket_max", *WIDE, "--bucket_max", 20, without=WIDE)
def no_side_is_longer(it: Seen, plain: Seen) -> None:
    assert {width for _, width in shapes(it)} == {20}


@row("bucket_upscale", *LARGE, "--bucket_upscale", without=LARGE)
def pictures_below_the_area_are_enlarged_to_it(it: Seen, plain: Seen) -> None:
    assert min(height * width for height, width in shapes(it)) > 96 * 32


@row("no_cache_latents", "--no_cache_latents")
def the_vae_runs_in_every_step(it: Seen, plain: Seen) -> None:
    assert [len(batch) for batch in it.pixels] == 4 * [1]  # two steps of two pictures, each alone


def inner(it: Seen, channel: int) -> list[np.ndarray]:
    """A channel of all pictures that were framed, by row."""
    return [picture[channel].numpy() for batch in it.pixels for picture in batch]


@row("center_crop", *FRAMED, without=SQUARE)
def both_sides_lose_the_same(it: Seen, plain: Seen) -> None:
    """The picture of 48 x 16 after resizing: columns 16 to 31 of red stay, which were 32 to 63."""
    means = [float(red.mean()) for red in inner(it, 0)]
    assert all(abs(mean - colour(95)) < 0.03 for mean in means)


@row("random_flip", *FRAMED, without=SQUARE)
def some_pictures_are_mirrored_and_others_not(it: Seen, plain: Seen) -> None:
    assert {bool(red[0, 0] < red[0, -1]) for red in inner(it, 0)} == {True, False}


@row("image_interpolation_mode", *FRAMED, without=SQUARE)
def the_nearest_pixel_is_taken_and_nothing_between(it: Seen, plain: Seen) -> None:
    assert {float(value) for green in inner(it, 1) for value in np.unique(green)} <= {-1.0, 1.0}
