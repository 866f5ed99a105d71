"""Flags of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from huggingface_hub import constants

from tests.conftest import save_tiny_pipeline
from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

REVISION = "a" * 40
_NAMES = {"main": "0" * 40, "other": REVISION}
CACHED = (
    *("--pretrained_model_name_or_path", "someone/tiny", "--cache_dir", "@hub_cache"),
    *("--revision", "other", "--variant", "fp16", "--no_report"),
)

_RUN = "test_single_file.py::test_a_run_is_that_of_the_folder"
elsewhere(model_config=_RUN, tokenizer_name=_RUN)
elsewhere(pretrained_vae_model_name_or_path="test_sdxl.py::test_a_named_vae_takes_the_place_of_the_models")
elsewhere(prediction_type="test_models.py::test_the_given_prediction_type_reaches_every_picture_the_file_and_the_user")


def make_hub_cache(folder: Path) -> Path:
    """A model in two revisions, each with two variants, as the Hub's client lays its cache out.

    The U-Net of the revision `other` has ones in conv_in.bias; those of the variants fp16 have twos in conv_out.bias.
    """
    model = folder / "models--someone--tiny"
    (model / "refs").mkdir(parents=True)
    for name, commit in _NAMES.items():
        (model / "refs" / name).write_text(commit)
        snapshot = save_tiny_pipeline(model / "snapshots" / commit)
        unet = UNet2DConditionModel.from_pretrained(snapshot / "unet")
        unet.conv_in.bias.data.fill_(name == "other")
        for variant, number in ((None, 0), ("fp16", 2)):
            unet.conv_out.bias.data.fill_(number)
            unet.save_pretrained(snapshot / "unet", variant=variant)
        for part in ("vae/diffusion_pytorch_model", "text_encoder/model"):
            shutil.copyfile(snapshot / f"{part}.safetensors", snapshot / f"{part}.fp16.safetensors")
    assert json.loads((snapshot / "model_index.json").read_text())["unet"]
    return folder


def offline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "HF_HUB_OFFLINE", True)


@row("pretrained_model_name_or_path", *CACHED, whole=True, setup=offline)
def the_named_model_is_trained_and_proved(it: Seen, plain: Seen) -> None:
    assert "for the base model someone/tiny" in it.said
    assert it.column("loss")[0] != plain.column("loss")[0]


@row("cache_dir", *CACHED, whole=True, setup=offline)
def the_hubs_files_are_found_in_that_folder_alone(it: Seen, plain: Seen) -> None:
    assert it.about()["base_model"] == "someone/tiny" and (it.run / "merge_report.json").is_file()


@row("revision", *CACHED, whole=True, setup=offline)
def the_weights_are_those_of_the_revision(it: Seen, plain: Seen) -> None:
    assert it.losses[0]["base"]["conv_in.bias"] == 1


@row("variant", *CACHED, whole=True, setup=offline)
def the_weights_are_those_of_the_variant(it: Seen, plain: Seen) -> None:
    assert it.losses[0]["base"]["conv_out.bias"] == 2
