"""What the paths of `reslora_frozen` are measured on, and that a checkpoint brings them."""

import json
import math

import pytest
import torch

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.diffusion import starting
from reslora_sd.diffusion.batches import BatchMaker
from reslora_sd.diffusion.frozen_paths import first_batches, path_samples
from reslora_sd.files.storage import load_tensors
from tests.diffusion.test_batches import FakeEncoder
from tests.unets import SD1, weightless


def test_the_pictures_are_those_of_the_first_steps_for_any_number_of_processes():
    one = BatchMaker(FakeEncoder(8), 4, seed=0, timesteps=1000, trained=range(100, 600))
    expected = [one(0), one(1)]
    alone = list(first_batches(one, 7))  # whole steps
    assert len(alone) == 2 and all(torch.equal(a.noise, b.noise) for a, b in zip(alone, expected, strict=True))
    for rank in range(2):
        mine = BatchMaker(FakeEncoder(8), 2, 0, 1000, processes=2, rank=rank, trained=range(100, 600))
        together = list(first_batches(mine, 7))
        for name in ("latents", "noise", "timesteps"):
            whole = torch.cat([getattr(batch, name) for batch in expected])
            assert torch.equal(torch.cat([getattr(batch, name) for batch in together]), whole)
        assert mine.rank == rank


def test_every_map_gets_tokens_enough_for_its_size():
    adapter = add_reslora(weightless(SD1), ResLoRAConfig(residual="frozen"))
    sites = [link.site for link in adapter.link_plan() if link.predecessors and not link.site.reads_text]
    needed = max(math.ceil(32 * site.in_features / site.tokens) for site in sites)
    assert path_samples(adapter) == needed == 160
    assert path_samples(add_reslora(weightless(SD1), ResLoRAConfig(residual="none"))) == 16


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_resumed_run_takes_its_paths_from_the_checkpoint_and_still_says_what_they_were_measured_on(
    train_only, monkeypatch
):
    flags = ("--method", "reslora_frozen", "--checkpointing_steps", 1, "--path_samples", 4)
    run = train_only(*flags, "--max_train_steps", 1)
    said = json.loads((run / "run.json").read_text())["frozen_paths"]
    assert said["pictures"] == 4 and len(said["explained"]) == 24
    before, _ = load_tensors(run / "checkpoint-1" / "reslora_adapter.safetensors")
    monkeypatch.setattr(starting, "measure_paths", lambda *_: pytest.fail("measured again"))
    train_only(*flags, "--max_train_steps", 2, "--resume_from_checkpoint", "latest")
    assert json.loads((run / "run.json").read_text())["frozen_paths"] == said
    after, _ = load_tensors(run / "checkpoint-2" / "reslora_adapter.safetensors")
    maps = [name for name in before if name.endswith(".M")]
    assert len(maps) == 12 and all(torch.equal(before[name], after[name]) for name in maps)
    with pytest.raises(ValueError, match=r"--path_samples.* 4.* 8"):
        train_only(*flags[:-1], 8, "--max_train_steps", 3, "--resume_from_checkpoint", "latest")
