"""The launches with which diffusers tests its own LoRA script, restated for ours with local files.

Source: huggingface/diffusers, examples/text_to_image/test_text_to_image_lora.py. Ours trains SDXL by the same script.
"""

from __future__ import annotations

import pytest
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from reslora_sd.runs.jsonl import read_jsonl
from tests.single_files import small_pipeline

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

FLAGS = """--resolution 64 --center_crop --random_flip --gradient_accumulation_steps 1 --scale_lr
--lr_scheduler constant --lr_warmup_steps 0 --checkpointing_steps=2 --seed=0 --num_validation_images=0""".split()


@pytest.fixture
def launch(train, tiny_pipeline_folder):
    """Launches the script, and draws with what it left in a pipeline without this package."""

    def run(steps, *more):
        flags = ("--train_batch_size", 1, "--max_train_steps", steps, "--learning_rate", 5e-4, "--rank", None)
        folder = train(*FLAGS, *flags, *more)
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_lora_weights(str(folder))
        assert pipeline.get_active_adapters()
        assert len(pipeline("a prompt", num_inference_steps=1, height=64, width=64).images) == 1
        return folder

    return run


def checkpoints(run):
    return {path.name for path in run.glob("checkpoint-*")}


def steps(run):
    return [row["step"] for row in read_jsonl(run / "log.jsonl")]


def test_the_oldest_checkpoint_gives_way_to_the_limit(launch):
    run = launch(6, "--checkpoints_total_limit=2")
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    assert checkpoints(run) == {"checkpoint-4", "checkpoint-6"}
    assert not list(run.rglob("*.png"))  # no validation pictures


@pytest.mark.slow
def test_a_limit_given_on_resuming_removes_several_checkpoints(launch):
    run = launch(4)
    assert checkpoints(run) == {"checkpoint-2", "checkpoint-4"}
    launch(8, "--resume_from_checkpoint=checkpoint-4", "--checkpoints_total_limit=2")
    assert steps(run) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert checkpoints(run) == {"checkpoint-6", "checkpoint-8"}


@pytest.mark.slow
@pytest.mark.parametrize("text", [False, True])
def test_sdxl_trains_by_the_same_script_with_and_without_its_text_encoders(train, tmp_path, text):
    small_pipeline("sdxl").save_pretrained(tmp_path / "xl")
    flags: tuple[object, ...] = (
        "--resolution",
        64,
        "--train_batch_size",
        1,
        "--max_train_steps",
        6,
        "--checkpointing_steps=2",
    )
    flags += ("--train_text_encoder",) if text else ()
    run = train(*flags, "--checkpoints_total_limit=2", "--scale_lr", model=tmp_path / "xl")
    assert steps(run) == [1, 2, 3, 4, 5, 6] and checkpoints(run) == {"checkpoint-4", "checkpoint-6"}
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "xl")
    pipeline.load_lora_weights(str(run))
    assert pipeline.get_active_adapters()
    components = {"unet", "text_encoder", "text_encoder_2"} if text else {"unet"}
    assert pipeline.get_list_adapters().keys() == components
