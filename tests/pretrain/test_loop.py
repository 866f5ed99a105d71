"""The loop of both stages: its ends, its clock, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reslora_sd.pretrain.loop import Stage, StageSettings, WorkClock


def test_a_pause_counts_as_a_usual_step() -> None:
    clock = WorkClock()
    for _ in range(10):
        clock.count(1.0)
    clock.count(3600.0)
    assert clock.seconds == 14.0


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        StageSettings(1e-3, 4)
    with pytest.raises(ValueError, match="exactly one"):
        StageSettings(1e-3, 4, max_steps=3, budget_seconds=3)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        StageSettings(0.0, 4, max_steps=3)
    with pytest.raises(ValueError, match="ema_decay"):
        StageSettings(1e-3, 4, max_steps=3, ema_decay=1.0)


def test_a_budget_of_seconds_ends_the_stage(tmp_path: Path) -> None:
    settings = StageSettings(1e-3, 2, budget_seconds=0.05, workers=1)
    stage = Stage("line", nn.ModuleDict({"line": nn.Linear(8, 8)}), settings, tmp_path, seed=0)
    stage.run(lambda modules, generator, _: modules["line"](torch.randn(2, 8, generator=generator)).square().mean())
    assert stage.progress == 1 and stage.step > 0 and stage.checkpoint.is_file()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    settings = StageSettings(1e-3, 2, max_steps=2, workers=1, log_every=1)
    stage = Stage("line", nn.ModuleDict({"line": nn.Linear(8, 8)}), settings, tmp_path, seed=0)
    with pytest.raises(RuntimeError, match="nan"):
        stage.run(lambda modules, _, __: modules["line"](torch.ones(8)).sum() * float("nan"))


def line_stage(folder: Path, width: int = 8, resume: bool = False) -> Stage:
    settings = StageSettings(1e-3, 2, max_steps=2, workers=1, log_every=1)
    return Stage("line", nn.ModuleDict({"line": nn.Linear(width, width)}), settings, folder, seed=0, resume=resume)


def line_loss(modules: nn.ModuleDict, generator: torch.Generator, _: float) -> Tensor:
    loss: Tensor = modules["line"](torch.randn(2, 8, generator=generator)).square().mean()
    return loss


def test_a_stage_takes_up_its_checkpoint_only_when_asked(tmp_path: Path) -> None:
    first = line_stage(tmp_path)
    first.run(line_loss, stop_after=1)
    with pytest.raises(FileExistsError, match="--resume"):
        line_stage(tmp_path)
    second = line_stage(tmp_path, resume=True)
    assert second.step == 1 and second.progress == 0.5
    for name, value in first.modules.state_dict().items():
        assert torch.equal(value, second.modules.state_dict()[name])
    assert line_stage(tmp_path / "new", resume=True).step == 0


def test_checkpoints_that_cannot_be_taken_up_are_refused_by_name(tmp_path: Path) -> None:
    line_stage(tmp_path).run(line_loss)
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"checkpoint\.pt was written with other model settings"):
        line_stage(tmp_path, width=16, resume=True)
    state = torch.load(file, weights_only=True)
    torch.save({**state, "optimizer": {"state": {}, "param_groups": []}}, file)  # as before torch's Muon
    with pytest.raises(ValueError, match=r"checkpoint\.pt was written with .* another version"):
        line_stage(tmp_path, resume=True)
    for damaged in (b"", b"not a checkpoint", file.read_bytes()[:500]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt can't be read"):
            line_stage(tmp_path, resume=True)
