"""A model that is put into eval mode for a while gets back every submodule's own mode."""

import pytest
import torch
from torch import nn

from reslora_sd import ResLoRAConfig, add_reslora, collect_statistics
from reslora_sd.modes import evaluating
from reslora_sd.plan.text import trace_text
from tests.toys import TARGETS, ids_for, toy


def model_with_a_part_in_eval_mode():
    model = toy().train()
    model.layers[1].eval()
    model.text.eval()
    return model, {name: module.training for name, module in model.named_modules()}


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def test_parts_in_eval_mode_stay_so_and_others_train_again():
    model, before = model_with_a_part_in_eval_mode()
    with evaluating(model):
        assert not any(modes(model).values())
    assert modes(model) == before and set(before.values()) == {True, False}


def test_an_error_gives_the_modes_back_too():
    model, before = model_with_a_part_in_eval_mode()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert modes(model) == before


def test_tracing_a_model_leaves_its_modes():
    model, before = model_with_a_part_in_eval_mode()
    trace_text(model, ResLoRAConfig(target_modules=TARGETS))
    assert modes(model) == before


def test_collecting_statistics_leaves_the_modes_also_after_an_error():
    model, _ = model_with_a_part_in_eval_mode()
    adapter = add_reslora(model, ResLoRAConfig(target_modules=TARGETS))
    before = modes(model)
    assert set(before.values()) == {True, False}
    seen = []

    def forward(seed):
        seen.append(modes(model))
        return model(ids_for(seed))

    collect_statistics(adapter, [1], forward)
    assert not any(seen[0].values()) and modes(model) == before
    with pytest.raises(KeyError):
        collect_statistics(adapter, [1], lambda seed: {}[seed])
    assert modes(model) == before


def test_a_validation_loss_leaves_the_modes():
    from diffusers import DDPMScheduler

    from reslora_sd.diffusion.batches import Batch
    from reslora_sd.diffusion.conditioning import Conditioning
    from reslora_sd.diffusion.validation import validation_loss

    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dropout = nn.Conv2d(1, 1, 1), nn.Dropout()

        def forward(self, sample, timesteps, encoder_hidden_states):
            assert not self.training and not self.dropout.training
            return type("Output", (), {"sample": self.conv(sample)})

    unet = Denoiser().train()
    unet.conv.eval()
    latents = torch.zeros(1, 1, 2, 2)
    validation_loss(
        unet, DDPMScheduler(), [Batch(latents, Conditioning(torch.zeros(1, 1, 1)), latents, torch.tensor([3]))]
    )
    assert modes(unet) == {"": True, "conv": False, "dropout": True}
