"""Runs of the page's tests: made-up ones for reading, real ones of the embedded model for all else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from app.synthetic import make_run
from tests.scripts import SCRIPTS

SCRIPT = SCRIPTS / "train_text_to_image_reslora.py"
PROMPTS = ("red apple", "a <b>bold</b> $x_1$ cat")
"""The second one would show if a prompt were read as HTML, Markdown or a formula."""


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """A LoRA run of 20 steps with pictures of two prompts at every fifth."""
    return make_run(tmp_path / "lora", "lora", steps=20, every=5, side=16)


@pytest.fixture
def made_up_pair(tmp_path: Path, made_up: Path) -> tuple[Path, Path]:
    """It and a ResLoRA run like it."""
    return made_up, make_run(tmp_path / "reslora_is", "reslora_is", steps=20, every=5, side=16)


@pytest.fixture(scope="session")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both methods on the embedded model, four steps: there in seconds, and once for all test processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "page_runs"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            make_real_runs(folder)
            (folder / "made").touch()
    return {method: folder / method for method in ("lora", "reslora_is")}


def make_real_runs(folder: Path) -> None:
    """Trains both, a core each."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    flags = (
        "--max_train_steps 4 --validation_steps 2 --checkpointing_steps 2 --train_batch_size 2 --rank 4 "
        "--max_train_samples 16 --validation_samples 4 --calibration_samples 8 "
        "--validation_inference_steps 3 --validation_guidance_scale 4 --report --save_precision float32"
    ).split()
    trainings = {
        method: subprocess.Popen(
            [
                sys.executable,
                str(SCRIPT),
                "--method",
                method,
                "--output_dir",
                str(folder / method),
                *flags,
                "--validation_prompts",
                *PROMPTS,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for method in ("lora", "reslora_is")
    }
    for training in trainings.values():
        said, _ = training.communicate(timeout=300)
        assert training.returncode == 0, said[-2000:]
