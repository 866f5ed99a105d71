"""The settings of the pictures, and of how they are framed. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..runs.names import BUNDLED, OPENMOJI, STYLES
from ..training.options import check_at_least, check_choices, check_finite, check_shares, option, switch

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
DEFAULT_CLASS_IMAGES = 100
"""As in diffusers' train_dreambooth_lora.py."""


@dataclass(frozen=True)
class DataSettings:
    """The pictures, and how they are framed."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None,
        f"Data set of the Hub, an embedded style ({', '.join(STYLES)}), or {OPENMOJI} (without data of your own, "
        f"embedded model: {STYLES[0]}; other: {OPENMOJI}).",
    )
    dataset_config_name: str | None = option(None, "Configuration of the Hub data set.")
    dataset_config: str | None = option(None, "TOML or YAML file that describes several folders and data sets.")
    train_data_dir: str | None = option(
        None, "Folder of pictures with metadata.jsonl or .txt files, of parquets, or of tars."
    )
    image_column: str | None = option(None, "Column of pictures (left out: found by name).")
    caption_column: str | None = option(None, "Column of captions (left out: found by name).")
    trigger_word: str | None = option(None, "Begin each caption that doesn't have this word with it.")
    shuffle_caption: bool = option(False, "Bring the tags of captions, between commas, into another order each time.")
    keep_tokens: int = option(0, "So many tags at the beginning of captions stay where they are (kohya's name).")
    caption_dropout_rate: float = option(0.0, "Share of times that a picture is met without its caption.")
    caption_tag_dropout_rate: float = option(0.0, "Share of the tags of a caption that are left out each time.")
    max_token_length: int | None = option(None, "Read so many tokens of captions, in chunks (left out: one chunk, 75).")
    max_train_samples: int | None = option(None, "Use at most so many pictures (OpenMoji where no data is given: 576).")
    resolution: int | None = option(None, "Pixels of a side (left out: the model's own; diffusers: 512).")
    center_crop: bool = option(False, "Crop the centre instead of a random place (embedded model, own pictures: on).")
    random_flip: bool = option(False, "Mirror half of the pictures.")
    image_interpolation_mode: Interpolation = option("lanczos", "How pictures are resized.")
    buckets: bool | None = switch("Keep the shapes of pictures, in buckets (left out: unless all are square).")
    bucket_step: int | None = option(None, "Buckets' sides are multiples of it (left out: 64, less below 512 pixels).")
    bucket_min: int | None = option(None, "Least side of a bucket (left out: half the resolution).")
    bucket_max: int | None = option(None, "Greatest side of a bucket (left out: twice the resolution).")
    bucket_upscale: bool = option(False, "Enlarge small pictures to the area of the resolution.")
    cache_latents: bool | None = switch(
        "Run the VAE once for each picture (left out: unless crops or flips are random)."
    )
    with_prior_preservation: bool = option(False, "Train pictures of the class, too, so that it keeps its meaning.")
    class_data_dir: str | None = option(None, "Folder of pictures of the class.")
    class_prompt: str | None = option(None, "Their caption; by it the base model draws those that are missing.")
    num_class_images: int | None = option(None, "So many are to be there (left out, with --class_prompt: 100).")
    prior_loss_weight: float = option(1.0, "How much the loss of a picture of the class counts.")
    masked_loss: bool = option(False, "Masks say which parts of pictures count: --mask_data_dir, or alpha channels.")
    mask_data_dir: str | None = option(None, "Folder of masks that are called as the pictures are; white counts.")
    unmasked_weight: float = option(0.0, "How much the parts count that a mask leaves out; 1: as all others.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, ["max_train_samples", "resolution", "bucket_step", "bucket_min", "bucket_max"])
        check_at_least(self, 0, ["keep_tokens"])
        check_at_least(self, 1, ["max_token_length"])
        check_shares(self, ["caption_dropout_rate", "caption_tag_dropout_rate"])
        if self.trigger_word is not None and not (self.trigger_word.strip() and self.is_own):
            raise ValueError("--trigger_word is empty, or the pictures aren't your own. Write a word, or leave it out.")
        others = ("dataset_name", "dataset_config_name", "train_data_dir", "image_column", "caption_column")
        more = [name for name in others if getattr(self, name) is not None]
        if self.dataset_config is not None and more:
            raise ValueError(f"--{more[0]} is given beside --dataset_config. Write it into that file, or leave it out.")
        asked = [name for name in ("bucket_step", "bucket_min", "bucket_max", "bucket_upscale") if getattr(self, name)]
        if self.buckets is False and asked:
            raise ValueError(f"--{asked[0]} does nothing with --no_buckets. Leave one of the two out.")
        if self.cache_latents and self.random_flip:
            raise ValueError("--cache_latents keeps one latent of a picture, which --random_flip forbids. Choose one.")
        self._check_class()
        self._check_masks()

    def _check_class(self) -> None:
        check_at_least(self, 1, ["num_class_images"])
        check_at_least(self, 0, ["prior_loss_weight"])
        check_finite(self)
        asked = [name for name in ("class_data_dir", "class_prompt", "num_class_images") if getattr(self, name)]
        if asked and not self.with_prior_preservation:
            raise ValueError(f"--{asked[0]} is given without --with_prior_preservation. Add it, or leave this out.")
        if self.with_prior_preservation and not self.class_data_dir:
            raise ValueError(
                "--with_prior_preservation needs --class_data_dir. Name a folder for pictures of the class."
            )
        if self.class_prompt is not None and not self.class_prompt.strip():
            raise ValueError("--class_prompt is empty. Write what the class is called, such as 'a photo of a dog'.")
        if self.num_class_images and not self.class_prompt:
            raise ValueError("--num_class_images needs --class_prompt, by which they are drawn. Add it.")
        if self.prior_loss_weight != 1 and not (self.with_prior_preservation or self.dataset_config):
            raise ValueError("--prior_loss_weight does nothing without --with_prior_preservation. Add it.")

    def _check_masks(self) -> None:
        check_shares(self, ["unmasked_weight"])
        asked = [name for name in ("mask_data_dir", "unmasked_weight") if getattr(self, name)]
        if asked and not self.masked_loss:
            raise ValueError(f"--{asked[0]} is given without --masked_loss. Add it, or leave this out.")
        if self.mask_data_dir and not self.train_data_dir:
            raise ValueError(
                "--mask_data_dir is for --train_data_dir. With --dataset_config, write 'mask' into that file."
            )

    @property
    def class_pictures_wanted(self) -> int:
        """How many pictures of the class are to be there; 0 where none is drawn."""
        return (self.num_class_images or DEFAULT_CLASS_IMAGES) if self.class_prompt else 0

    @property
    def is_default(self) -> bool:
        """Whether no data is given, so that OpenMoji is used."""
        return self.dataset_name is None and self.train_data_dir is None and self.dataset_config is None

    @property
    def is_own(self) -> bool:
        """Whether the pictures are none of those that come with this package or its packages."""
        return not self.is_default and self.dataset_name not in BUNDLED
