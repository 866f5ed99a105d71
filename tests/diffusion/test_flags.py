"""Flags by their effect: on the batches that the loss sees, on the log, on the files."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from reslora_sd.files.storage import load_tensors
from tests.scripts import SCRIPTS, load_script

SCRIPT = SCRIPTS / "train_text_to_image_reslora.py"
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def seen(train, monkeypatch):
    """Runs the script; gives its run folder, and what every call of the loss was given."""

    def run(*argv, **kwargs):
        calls = []
        script = load_script(SCRIPT.stem)
        loss = script.diffusion_loss

        def spy(unet, scheduler, latents, embeddings, noise, timesteps, snr_gamma=None):
            calls.append(
                {
                    "unet": unet,
                    "latents": latents,
                    "embeddings": embeddings,
                    "noise": noise,
                    "timesteps": timesteps,
                    "snr_gamma": snr_gamma,
                }
            )
            return loss(unet, scheduler, latents, embeddings, noise, timesteps, snr_gamma)

        monkeypatch.setattr(script, "diffusion_loss", spy)
        return train(*argv, script=script, **kwargs), calls

    return run


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def settings(run):
    return json.loads((run / "run.json").read_text())


def timesteps(calls):
    return torch.cat([call["timesteps"] for call in calls])


def test_only_timesteps_between_the_limits_are_trained(seen):
    flags = ("--train_batch_size", 8, "--max_train_steps", 4)
    _, free = seen(*flags, output="free")
    assert timesteps(free).min() < 300 and timesteps(free).max() >= 400
    _, some = seen(*flags, "--min_timestep", 300, "--max_timestep", 400, output="some")
    assert len(timesteps(some)) == 32
    assert timesteps(some).min() >= 300 and timesteps(some).max() < 400
    _, low = seen(*flags, "--max_timestep", 50, output="low")
    assert timesteps(low).max() < 50
    _, high = seen(*flags, "--min_timestep", 900, output="high")
    assert timesteps(high).min() >= 900


def test_min_snr_weights_are_those_of_the_paper(seen, tiny_pipeline_folder):
    """min(SNR, gamma) / SNR for epsilon prediction (arXiv 2303.09556), written again from the scheduler's alphas."""
    run, (call,) = seen("--snr_gamma", 5.0, "--max_train_steps", 1, "--train_batch_size", 8)
    scheduler = DDPMScheduler.from_pretrained(tiny_pipeline_folder, subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_folder, subfolder="unet")  # lora_B is zero at first
    alphas = scheduler.alphas_cumprod[call["timesteps"]]
    noisy = scheduler.add_noise(call["latents"], call["noise"], call["timesteps"])
    with torch.no_grad():
        predicted = unet(noisy, call["timesteps"], call["embeddings"]).sample
    errors = (predicted - call["noise"]).square().flatten(1).mean(1)
    snr = alphas / (1 - alphas)
    expected = (errors * snr.clamp(max=5.0) / snr).mean()
    assert log(run)[0]["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(expected) - float(errors.mean())) > 1e-3


def test_scale_lr_multiplies_the_rate_by_the_pictures_of_a_step(train):
    run = train(
        "--scale_lr",
        "--learning_rate",
        1e-4,
        "--train_batch_size",
        2,
        "--gradient_accumulation_steps",
        3,
        "--max_train_steps",
        2,
    )
    assert [row["lr"] for row in log(run)] == pytest.approx([6e-4, 6e-4])


def test_noise_offset_shifts_each_channel_of_each_picture(seen):
    _, plain = seen("--max_train_steps", 1, output="plain")
    _, shifted = seen("--max_train_steps", 1, "--noise_offset", 0.5, output="shifted")
    shift = shifted[0]["noise"] - plain[0]["noise"]  # (batch, channels, height, width)
    constant = shift.mean((2, 3), keepdim=True)
    torch.testing.assert_close(shift, constant.expand_as(shift), rtol=0, atol=1e-5)
    assert constant.unique().numel() == constant.numel() and constant.abs().max() > 0.1


def test_half_precision_feeds_half_batches_and_keeps_the_adapter_in_float32(seen):
    run, calls = seen("--mixed_precision", "bf16", "--max_train_steps", 2)
    assert {call["latents"].dtype for call in calls} == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in load_tensors(run / "reslora_adapter.safetensors")[0].values())


def test_gradient_checkpointing_is_on_in_the_model(seen):
    _, calls = seen("--gradient_checkpointing", "--max_train_steps", 1)
    assert calls[0]["unet"].is_gradient_checkpointing
    _, calls = seen("--max_train_steps", 1, output="without")
    assert not calls[0]["unet"].is_gradient_checkpointing


def test_the_schedule_is_followed(train):
    run = train("--lr_scheduler", "linear", "--lr_warmup_steps", 2, "--learning_rate", 1e-3, "--max_train_steps", 6)
    assert [row["lr"] for row in log(run)] == pytest.approx([0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_so_many_pictures_are_used(train):
    assert settings(train("--max_train_samples", 3))["dataset"]["pictures"] == 3


def test_trackers_get_their_files(train):
    run = train("--report_to", "tensorboard", "--max_train_steps", 1)
    assert list(run.glob("logs/**/events.out.tfevents.*"))


def test_flags_of_the_adapter_reach_it(train):
    run = train("--first_block", "none", "--link", "same_size", "--across_attention", "--max_train_steps", 1)
    config = settings(run)["lora_config"]
    assert (config["first_block"], config["link"], config["across_attention"]) == ("none", "same_size", True)
    plain = settings(train("--max_train_steps", 1, output="plain"))
    linked = [sum(bool(site["predecessors"]) for site in one["link_plan"]) for one in (plain, settings(run))]
    assert linked[1] > linked[0]


def test_all_predecessors_and_a_cut_rank(train):
    run = train("--method", "reslora_bs", "--pre_num", -1, "--merge_rank", 4, "--max_train_steps", 1)
    assert settings(run)["lora_config"]["pre_num"] == -1
    tensors = load_tensors(run / "pytorch_lora_weights.safetensors")[0]
    assert {value.shape[0] for name, value in tensors.items() if name.endswith("lora_A.weight")} == {4}


def test_only_the_named_targets_get_blocks(train):
    run = train("--target_modules", "attn2.to_k", "attn2.to_v", "--max_train_steps", 1)
    names = load_tensors(run / "pytorch_lora_weights.safetensors")[0]
    assert {name.split("transformer_blocks.0.")[1].split(".lora_")[0] for name in names} == {"attn2.to_k", "attn2.to_v"}


def test_the_asked_merge_is_exported(train, caplog):
    run = train("--merge_approach", "weights", "--enable_xformers_memory_efficient_attention", "--max_train_steps", 1)
    metadata = load_tensors(run / "pytorch_lora_weights.safetensors")[1]
    assert metadata["reslora_merge_approach"] == "weights"
    assert "xformers isn't used" in caplog.text


def test_epochs_are_counted_in_pictures(train):
    run = train("--num_train_epochs", 2, "--max_train_steps", None, "--train_batch_size", 3)
    assert [row["step"] for row in log(run)] == [1, 2, 3, 4, 5, 6]  # 8 pictures: 3 steps an epoch


def test_prompts_without_an_interval_are_drawn_every_epoch(train):
    run = train("--validation_prompts", "colour 1", "--max_train_steps", 8, "--train_batch_size", 2)
    rows = [json.loads(line) for line in (run / "validation" / "index.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if row["merge_approach"] == "unmerged"} == {0, 4, 8}
