import torch
from PIL import Image

from reslora_sd.diffusion.batches import BatchMaker
from reslora_sd.diffusion.data import CaptionedImages
from reslora_sd.diffusion.encoded import EncodedImages


class FakeEncoder(EncodedImages):
    """Rows as latents."""

    def __init__(self, count):
        self.images = CaptionedImages(["a"] * count, lambda row: Image.new("RGB", (2, 2)), "made up")

    @property
    def latent_shape(self):
        return 1, 2, 2

    def latents(self, rows, rngs, noise):
        return torch.tensor(rows)[:, None, None, None].expand(-1, 1, 2, 2)

    def embeddings(self, captions):
        return torch.zeros(len(captions), 1, 1)


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
