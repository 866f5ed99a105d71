"""The flags of pretrain_tiny_sd.py: defaults, config files, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reslora_sd.pretrain.samples import SHEET_PROMPTS
from reslora_sd.pretrain.settings import RARE_WORDS, PretrainSettings, parse_settings
from tests.pretrain.conftest import pretrain, tiny_arguments


def parse(*more: str) -> PretrainSettings:
    return parse_settings(["--data_dir", "drawings", "--output_dir", "out", *more])


def test_the_defaults_are_the_shipped_models_recipe() -> None:
    settings = parse()
    vae, unet = settings.vae.stage(settings.loop), settings.unet.stage(settings.loop)
    assert (vae.budget_seconds, vae.max_steps, vae.batch_size) == (1800, None, 16)
    assert (vae.learning_rate, vae.ema_decay) == (3e-3, 0.997)
    assert (unet.budget_seconds, unet.max_steps, unet.batch_size) == (3600, None, 32)
    assert (unet.learning_rate, unet.ema_decay) == (2e-3, 0.998)
    for stage in (vae, unet):
        assert (stage.warmup_steps, stage.save_every, stage.log_every) == (100, 250, 50)
    model = settings.model
    assert (model.vae_channels, model.unet_channels, model.tokens) == ([16, 48, 96], [64, 128], 24)
    plan = settings.captions.plan
    assert plan.rare_words == tuple(RARE_WORDS) and plan.frequent_names == SHEET_PROMPTS
    assert settings.data.leave_out_sets == ["openmoji"] and settings.captions.set_order is None
    assert settings.output.pipeline_folder == Path("out", "pipeline")
    assert not settings.loop.resume and not settings.loop.no_bf16


def test_steps_come_before_minutes() -> None:
    settings = parse("--vae_steps", "7", "--vae_minutes", "3")
    stage = settings.vae.stage(settings.loop)
    assert stage.max_steps == 7 and stage.budget_seconds is None


def test_lists_may_be_empty() -> None:
    settings = parse("--leave_out_sets", "--rare_words", "--frequent_names", "--seed", "3")
    assert settings.data.leave_out_sets == settings.captions.rare_words == settings.captions.frequent_names == []
    assert settings.loop.seed == 3


def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    flags = {"data_dir": "here", "output_dir": "there", "leave_out_sets": [], "unet_steps": 5, "resume": True}
    file.write_text(json.dumps(flags))
    settings = parse_settings(["--config", str(file), "--unet_steps", "6"])
    assert (settings.data.data_dir, settings.output.output_dir) == ("here", "there")
    assert settings.data.leave_out_sets == [] and settings.unet.unet_steps == 6 and settings.loop.resume


def test_flags_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--unet_step", "3")
    assert "--unet_step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir", "x"], "--data_dir is missing"),
        (["--data_dir", "x"], "--output_dir is missing"),
        (["--unet_learning_rate", "0"], r"--unet_learning_rate is 0\.0"),
        (["--vae_steps", "0"], "--vae_steps is 0"),
        (["--vae_ema", "1"], r"--vae_ema is 1\.0. It must be at least 0 and below 1"),
        (["--leading_share", "1.5"], r"--leading_share is 1\.5. It must be at least 0 and at most 1"),
        (["--left_out_names", "-1"], "--left_out_names is -1"),
        (["--vae_batch_size", "5", "--workers", "2"], "--vae_batch_size is 5.* multiple of --workers"),
        (["--unet_batch_size", "5", "--workers", "2"], "--unet_batch_size is 5.* multiple of --workers"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_their_flag(arguments: list[str], message: str) -> None:
    given = arguments if "missing" in message else ["--data_dir", "d", "--output_dir", "o", *arguments]
    with pytest.raises(ValueError, match=message):
        parse_settings(given)


def test_a_batch_that_cannot_be_shared_is_refused_before_the_first_stage(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of --workers"):
        pretrain(tiny_arguments(data, tmp_path / "out", "--unet_batch_size", "5"))
    assert not (tmp_path / "out").exists()
