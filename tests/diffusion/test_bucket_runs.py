"""Trainings on photos of all shapes, by the script."""

import json
from typing import Any

import pytest
import torch
from PIL import Image

from reslora_sd.diffusion.batches import BatchMaker
from reslora_sd.diffusion.conditioning import Conditioning
from reslora_sd.diffusion.data import CaptionedImages
from reslora_sd.diffusion.encoded import EncodedImages, Prepared
from reslora_sd.diffusion.framing import Framing
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_jsonl
from tests.photos import make_photos

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
SMALL = ("icon.png", "land.jpg", "port.jpg", "turned.jpg", "press.jpg", "scan.tiff", "pano.jpg")
FLAGS = ("--resolution", 16, "--random_flip", "--checkpointing_steps", 2, "--gradient_accumulation_steps", 2)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", *SMALL, smaller=10)


def losses(run):
    return [row["loss"] for row in read_jsonl(run / "log.jsonl")]


def test_a_run_on_photos_measures_exports_and_goes_on_where_it_stopped(train, train_only, photos):
    drawn = ("--validation_prompts", "icon.png of mine", "--validation_steps", 4, "--validation_inference_steps", 1)
    flags = (*FLAGS, *drawn, "--validation_samples", 2, "--method", "lora", "--no_report")
    straight = train(*flags, data=photos, output="straight")
    about = json.loads((straight / "run.json").read_text())["dataset"]
    assert about["pictures"] == 5 == sum(about["shapes"].values()) and len(about["shapes"]) > 2
    assert len([row for row in read_jsonl(straight / "log.jsonl") if "validation_loss" in row]) == 1
    (file,) = straight.glob("straight.safetensors")
    said = load_tensors(file)[1]
    assert said["ss_enable_bucket"] == "True" and said["ss_random_crop"] == "False"
    buckets = json.loads(said["ss_bucket_info"])["buckets"].values()
    assert {f"{w}x{h}": row["count"] for row in buckets for w, h in [row["resolution"]]} == about["shapes"]
    before = losses(straight)
    train_only(*flags, "--resume_from_checkpoint", "checkpoint-2", data=photos, output="straight")
    assert losses(straight) == before


def test_epochs_are_as_long_as_their_pictures_fill_whatever_their_shapes(train_only, photos):
    run = train_only("--resolution", 16, "--max_train_steps", None, "--num_train_epochs", 2, data=photos)
    shapes = json.loads((run / "run.json").read_text())["dataset"]["shapes"]
    assert len(losses(run)) == 2 * 4 and len(shapes) > 3  # 7 pictures in batches of 2


def test_a_run_of_an_earlier_version_keeps_its_squares(train_only, photos):
    flags = ("--resolution", 16, "--checkpointing_steps", 2)
    run = train_only("--no_buckets", *flags, data=photos)
    before = losses(run)
    written = json.loads((run / "run.json").read_text())
    written["arguments"] = {name: value for name, value in written["arguments"].items() if "bucket" not in name}
    (run / "run.json").write_text(json.dumps(written))
    again = ("--resume_from_checkpoint", "checkpoint-2")
    with pytest.raises(ValueError, match="began with square pictures"):
        train_only("--buckets", *flags, *again, data=photos)
    for _ in range(2):  # the second time, run.json is of this version
        train_only(*flags, *again, data=photos)
        assert losses(run) == before


class Shapes(EncodedImages):
    """Rows as latents, of three shapes."""

    def __init__(self):
        self.images, self.framing = CaptionedImages(["a"] * 11, lambda row: Image.new("RGB", (2, 2)), ""), Framing(2)

    def latent_shape(self, row):
        return 1, 2, 2 + row % 3

    def prepared(self, rows, frames):
        return [Prepared(mask=torch.tensor(row)) for row in rows]

    def latents(self, prepared, noise):
        return torch.tensor([one.mask for one in prepared])[:, None, None, None] + 0 * noise

    def conditioning(self, captions, frames):
        return Conditioning(torch.zeros(len(captions), 1, 1), None, torch.tensor([frame.time_ids for frame in frames]))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_of_a_bucket_without_gaps(processes):
    one = BatchMaker(Shapes(), 2 * processes, seed=4, timesteps=1000)
    several = [BatchMaker(Shapes(), 2, 4, 1000, processes, rank) for rank in range(processes)]
    for step in range(12):
        whole, parts = one(step), [maker(step) for maker in several]
        for name in ("latents", "noise", "timesteps"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
        told: list[Any] = [batch.conditioning.time_ids for batch in (whole, *parts)]
        assert torch.equal(told[0], torch.cat(told[1:]))
    rows = torch.cat([one(step).latents[:, 0, 0, 0] for step in range(2 * one.order.batches(1))])
    assert set(rows.tolist()) == set(range(11))
