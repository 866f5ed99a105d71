"""Flags of how long and how training goes."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

LOSS = (
    *("--snr_gamma", 0.5, "--noise_offset", 0.5, "--min_timestep", 300, "--max_timestep", 400),
    *("--max_train_steps", 3),
)
THREE = ("--max_train_steps", 3)
OLD = (
    *("--gradient_checkpointing", "--allow_tf32", "--local_rank", 0),
    "--enable_xformers_memory_efficient_attention",
)
EPOCHS = ("--num_train_epochs", 2, "--max_train_steps", None, "--train_batch_size", 4)
ADDED = ("--gradient_accumulation_steps", 3, "--train_batch_size", 1, "--max_train_steps", 3)

elsewhere(dataloader_num_workers="test_disk_cache.py::test_a_run_says_what_was_cached_and_how_long_it_waited")


@row("seed", "--seed", 7)
def noise_pictures_timesteps_and_the_adapter_are_others(it: Seen, plain: Seen) -> None:
    for name in ("noise", "latents", "timesteps"):
        assert not torch.equal(it.losses[0][name], plain.losses[0][name])
    assert not torch.equal(it.updates[0].before, plain.updates[0].before)


@row("train_batch_size", *ADDED)
def a_batch_has_so_many_pictures(it: Seen, plain: Seen) -> None:
    assert {len(call["latents"]) for call in it.losses} == {1}


@row("gradient_accumulation_steps", *ADDED)
def a_step_adds_up_so_many_batches(it: Seen, plain: Seen) -> None:
    assert len(it.losses) == 3 * len(it.updates) == 3 * len(it.log)


@row("max_train_steps", *ADDED)
def the_run_has_so_many_steps(it: Seen, plain: Seen) -> None:
    assert it.column("step") == [1, 2, 3] and len(it.updates) == 3


@row("num_train_epochs", *EPOCHS)
def each_picture_is_seen_so_often(it: Seen, plain: Seen) -> None:
    assert it.column("step") == [1, 2, 3, 4]  # 8 pictures: 2 steps an epoch
    epochs = it.joined("embeddings").split(8)
    assert [len(epoch.flatten(1).unique(dim=0)) for epoch in epochs] == [8, 8]


@row("gradient_checkpointing", *OLD)
def the_u_net_recomputes_and_trains_the_same(it: Seen, plain: Seen) -> None:
    assert all(call["checkpointing"] for call in it.losses)
    assert it.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)


@row("allow_tf32", *OLD)
def pytorch_may_use_tf32_in_training(it: Seen, plain: Seen) -> None:
    assert all(call["tf32"] for call in it.losses)


@row("enable_xformers_memory_efficient_attention", *OLD)
def an_old_command_is_told_what_is_used_instead(it: Seen, plain: Seen) -> None:
    assert "xformers isn't used" in it.said


@row("local_rank", *OLD, changes_nothing=True)
def an_old_launchers_number_changes_nothing(it: Seen, plain: Seen) -> None:
    assert it.column("loss")[0] == pytest.approx(plain.column("loss")[0], rel=1e-5)


@row("mixed_precision", "--mixed_precision", "bf16", "--max_train_steps", 1)
def batches_are_half_and_the_adapter_is_not(it: Seen, plain: Seen) -> None:
    assert {call["latents"].dtype for call in it.losses} == {torch.bfloat16}
    assert {value.dtype for value in it.saved().values()} == {torch.float32}


@row("snr_gamma", *LOSS)
def the_weights_are_min_snr(it: Seen, plain: Seen) -> None:
    """min(SNR, gamma) / SNR for epsilon prediction (arXiv 2303.09556), written again from the scheduler's alphas."""
    call = it.losses[0]
    scheduler = DDPMScheduler.from_pretrained(it.model, subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(it.model, subfolder="unet")  # lora_B is zero at first
    noisy = scheduler.add_noise(call["latents"], call["noise"], call["timesteps"])
    with torch.no_grad():
        predicted = unet(noisy, call["timesteps"], call["embeddings"]).sample
    errors = (predicted - call["noise"]).square().flatten(1).mean(1)
    alphas = scheduler.alphas_cumprod[call["timesteps"]]
    snr = alphas / (1 - alphas)
    expected = (errors * snr.clamp(max=0.5) / snr).mean()
    assert it.column("loss")[0] == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(expected) - float(errors.mean())) > 1e-2


@row("noise_offset", *LOSS, without=THREE)
def each_channel_of_each_picture_is_shifted(it: Seen, plain: Seen) -> None:
    shift = it.joined("noise") - plain.joined("noise")  # (batch, channels, height, width)
    constant = shift.mean((2, 3), keepdim=True)
    torch.testing.assert_close(shift, constant.expand_as(shift), rtol=0, atol=1e-5)
    assert constant.unique().numel() == constant.numel() and constant.abs().max() > 0.1


@row("min_timestep", *LOSS, without=THREE)
def no_earlier_timestep_is_trained(it: Seen, plain: Seen) -> None:
    assert it.joined("timesteps").min() >= 300


@row("max_timestep", *LOSS, without=THREE)
def no_later_timestep_is_trained(it: Seen, plain: Seen) -> None:
    assert it.joined("timesteps").max() < 400
