import torch
from PIL import Image

from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import BatchMaker, batches_kept_out, training_batches
from reslora_sd.diffusion.conditioning import Conditioning
from reslora_sd.diffusion.data import CaptionedImages, load_split
from reslora_sd.diffusion.encoded import EncodedImages, Prepared
from reslora_sd.diffusion.framing import Framing, framing_of
from reslora_sd.diffusion.models import load_parts
from tests.photos import make_photos


class FakeEncoder(EncodedImages):
    """Rows as latents."""

    def __init__(self, count):
        self.images = CaptionedImages(["a"] * count, lambda row: Image.new("RGB", (2, 2)), "made up")

        self.framing = Framing(2)

    def latent_shape(self, row):
        return 1, 2, 2

    def prepared(self, rows, frames):
        return [Prepared(mask=torch.tensor(row)) for row in rows]

    def latents(self, prepared, noise):
        return torch.tensor([one.mask for one in prepared])[:, None, None, None].expand(-1, 1, 2, 2)

    def conditioning(self, captions, frames):
        return Conditioning(torch.zeros(len(captions), 1, 1), None, torch.tensor([frame.time_ids for frame in frames]))


def drawn(batches):
    return torch.cat([batch.timesteps for batch in batches])


def test_training_draws_from_its_timesteps_and_measuring_from_all():
    maker = BatchMaker(FakeEncoder(8), 4, seed=0, timesteps=1000, trained=range(100, 600))
    trained, measured = drawn(map(maker, range(100))), drawn(maker.between(0, 100))
    assert trained.min() >= 100 and trained.max() < 600 and trained.max() > 550
    assert measured.min() < 50 and measured.max() > 950


def test_without_a_range_training_and_measuring_draw_the_same():
    maker = BatchMaker(FakeEncoder(8), 4, seed=0, timesteps=1000)
    assert torch.equal(drawn([maker(3)]), drawn(maker.between(3, 4)))


def test_an_epoch_meets_every_picture_once_however_many_processes():
    one = BatchMaker(FakeEncoder(8), 4, seed=0, timesteps=1000)
    two = [BatchMaker(FakeEncoder(8), 2, 0, 1000, processes=2, rank=rank) for rank in range(2)]
    for step in range(2):
        whole, parts = one(step), [maker(step) for maker in two]
        for name in ("latents", "noise", "timesteps"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    rows = torch.cat([one(step).latents[:, 0, 0, 0] for step in range(2)])
    assert sorted(rows.tolist()) == list(range(8))


def test_every_picture_is_measured_on_however_many_a_batch_takes():
    for count, size in ((6, 4), (2, 2), (8, 4)):  # fewer pictures than a batch make a batch of their own: see below
        rows = torch.cat(
            [batch.latents[:, 0, 0, 0] for batch in BatchMaker(FakeEncoder(count), size, 0, 9).every_picture()]
        )
        assert set(rows.tolist()) == set(range(count))
    assert len(list(BatchMaker(FakeEncoder(6), 4, 0, 9).every_picture(least=20))) == 5


def test_fewer_pictures_kept_out_than_a_batch_are_a_batch(tiny_pipeline_folder, picture_folder):
    settings = parse_settings(
        [
            *("--train_data_dir", str(picture_folder), "--train_batch_size", "4"),
            *("--validation_samples", "3", "--test_samples", "2", "--seed", "5"),
        ]
    )
    parts = load_parts(str(tiny_pipeline_folder))
    split = load_split(settings, 16)
    framing = framing_of(settings.data, 16, split.training, parts)
    kept_out, test = batches_kept_out(settings.training, parts, split, framing)
    assert kept_out is not None and test is not None
    assert (kept_out.batch_size, kept_out.seed) == (3, 5) and (test.batch_size, test.seed) == (2, 0)
    assert [len(batch.latents) for batch in test.every_picture()] == [2]


def test_why_random_crops_are_kept_nowhere_is_told_and_who_decodes_them(
    tmp_path, tiny_pipeline_folder, caplog, monkeypatch
):
    photos = make_photos(tmp_path / "photos", "icon.png", "land.jpg", "port.jpg", smaller=10)
    parts = load_parts(str(tiny_pipeline_folder))

    def told(*words):
        caplog.clear()
        settings = parse_settings(["--train_data_dir", str(photos), "--resolution", "16", *words])
        images = load_split(settings, 16).training
        with caplog.at_level("INFO", "reslora_sd"):
            training_batches(settings, parts, images, framing_of(settings.data, 16, images, parts))
        return [line for line in caplog.messages if line.startswith("Crops of")]

    crops = ("--no_buckets", "--center_crop", "false")
    assert "Crops of 2 pictures are random" in told(*crops)[0] and "--dataloader_num_workers has" in told(*crops)[0]
    assert "by 1 worker ahead" in told(*crops, "--dataloader_num_workers", "1")[0]
    assert told() == told("--random_flip") == []
    monkeypatch.setattr("reslora_sd.diffusion.ahead.multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert "encoded each time, and decoded in the loop" in told(*crops, "--dataloader_num_workers", "1")[0]
