"""Checkpoints of the U-Net script: what they hold, and that nothing in those of a stranger is executed."""

import json
import random
import shutil

import pytest
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler

from reslora_sd import ResLoRAConfig, add_reslora
from reslora_sd.diffusion.adapters import Adapters
from reslora_sd.diffusion.checkpoints import load_checkpoint, register_adapter, save_checkpoint
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.names import MANIFEST_FILE
from tests.pickled import publish_anew, put_pickle
from tests.toys import TARGETS, ids_for, toy

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
ADDED = ("custom_checkpoint_0.pkl", "scaler.pt", "scheduler.bin", "pytorch_model.bin", "pytorch_model/optim_states.pt")
"""Files that accelerate or DeepSpeed would look for in other settings."""


class Training:
    """The parts of a training that its checkpoints hold."""

    def __init__(self, schedule="cosine"):
        self.model = toy()
        self.adapter = add_reslora(self.model, ResLoRAConfig(target_modules=TARGETS, r=2))
        self.accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=0.01)
        self.schedule = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=9)
        self.prepared, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        register_adapter(self.accelerator, Adapters(self.adapter), self.schedule)

    def step(self):
        self.prepared(ids_for(1)).square().mean().backward()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return self.schedule.get_last_lr(), torch.rand(2).tolist(), self.adapter.state_dict()


@pytest.fixture
def checkpoint(tmp_path):
    training = Training()
    training.step()
    RunFolder(tmp_path).begin({})
    save_checkpoint(training.accelerator, RunFolder(tmp_path), 2, None)
    return tmp_path / "checkpoint-2"


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant", "cosine_with_restarts"])
def test_schedule_random_states_and_weights_come_back(tmp_path, schedule):
    training = Training(schedule)
    training.step()
    RunFolder(tmp_path).begin({})
    save_checkpoint(training.accelerator, RunFolder(tmp_path), 1, None)
    rate, drawn, weights = training.step()
    other = Training(schedule)
    assert load_checkpoint(other.accelerator, tmp_path / "checkpoint-1") == 1
    again = other.step()
    assert (rate, drawn) == again[:2] and all(torch.equal(weights[name], again[2][name]) for name in weights)


def test_no_file_of_a_checkpoint_is_executed(checkpoint, tmp_path):
    own = [path.name for path in checkpoint.iterdir() if path.name != MANIFEST_FILE]
    assert sorted(own) == ["optimizer.bin", "random_states_0.pkl", "reslora_adapter.safetensors", "schedule.json"]
    marker, training = tmp_path / "marker", Training()
    for number, name in enumerate([*own, *own, *ADDED, *ADDED]):
        strange = shutil.copytree(checkpoint, tmp_path / f"theirs-{number}" / "checkpoint-2")
        put_pickle(strange, name, marker, with_torch=bool(number % 2))
        with pytest.raises(ValueError, match=name):
            load_checkpoint(training.accelerator, strange)
        assert not marker.exists(), name


def test_a_sharded_checkpoint_which_torch_would_execute_is_refused(checkpoint, tmp_path):
    put_pickle(checkpoint, "optimizer_0/.metadata", tmp_path / "marker", with_torch=False)
    with pytest.raises(ValueError, match=r"\.metadata is of a sharded checkpoint"):
        load_checkpoint(Training().accelerator, checkpoint)


def test_the_proof_proves_something(checkpoint, tmp_path):
    """The same file, trusted."""
    put_pickle(checkpoint, "optimizer.bin", tmp_path / "marker", with_torch=True)
    torch.load(checkpoint / "optimizer.bin", weights_only=False)["state"].close()
    assert (tmp_path / "marker").exists()


def test_random_states_that_are_none_are_told_and_not_passed_over(checkpoint):
    """accelerate takes any error while setting them for nothing."""
    torch.save({"random_state": random.getstate(), "step": 2}, checkpoint / "random_states_0.pkl")
    publish_anew(checkpoint)
    with pytest.raises(ValueError, match=r"random_states_0\.pkl holds no random state of numpy"):
        load_checkpoint(Training().accelerator, checkpoint)


@pytest.mark.parametrize("content", [[], {"state": 1}, {"state": {}, "param_groups": []}, torch.zeros(2)])
def test_an_optimizer_of_another_form_is_refused_in_a_sentence(checkpoint, content):
    torch.save(content, checkpoint / "optimizer.bin")
    publish_anew(checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint-2 can't be resumed from\. Its files are not those"):
        load_checkpoint(Training().accelerator, checkpoint)


@pytest.mark.parametrize(
    "change", [{"base_lrs": [0.1, 0.2]}, {"last_epoch": "2"}, {"step": 1}, {"lr_lambdas": [{"func": 1}]}]
)
def test_a_schedule_of_another_form_is_refused(checkpoint, change):
    """Its fields become attributes of the schedule."""
    file = checkpoint / "schedule.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    publish_anew(checkpoint)
    with pytest.raises(ValueError, match=r"schedule\.json is of another schedule"):
        load_checkpoint(Training().accelerator, checkpoint)
