"""What tests share: quiet libraries, a tiny pipeline folder of random weights, accelerate's state made new."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

# before torch is loaded: threads that spin while they wait make shared cores many times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import diffusers
import pytest
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from tests.unets import small_unet, small_vae

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports() -> None:
    """What was imported so far is not looked through again: accelerate collects garbage at each training's end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `save_tiny_pipeline`."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


def save_tiny_pipeline(folder: Path) -> Path:
    """A whole Stable Diffusion folder, smaller than the embedded model, with random weights (epsilon prediction)."""
    from reslora_sd.diffusion.models import DEFAULT_MODEL

    torch.manual_seed(0)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(DEFAULT_MODEL, subfolder="tokenizer")
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = small_vae()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=small_unet(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Eight pictures of different colours with captions in metadata.jsonl."""
    return make_picture_folder(tmp_path / "pictures")


def make_picture_folder(folder: Path, count: int = 8, size: tuple[int, int] = (16, 16)) -> Path:
    """Writes pictures and their metadata.jsonl."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        Image.new("RGB", size, (30 * number, 255 - 30 * number, 99)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"colour {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its state in the process; a run of the script starts without one."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
