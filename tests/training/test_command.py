"""How scripts begin and end."""

import subprocess
import sys

import huggingface_hub
import pytest
import torch
import transformers
from diffusers import UNet2DConditionModel

from reslora_sd.blocks.plain import PlainBlock
from reslora_sd.merging.plain_lora import PlainLoRA
from reslora_sd.runs.failures import DIVERGED_STATUS, DivergedError
from reslora_sd.training.checks import check_loss, check_trained
from reslora_sd.training.command import quiet_libraries, run_command


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, PermissionError, ImportError, RuntimeError])
def test_errors_of_input_end_in_one_line(error, monkeypatch):
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)

    def main():
        raise error("This is wrong. Do that.")

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == "Error: This is wrong. Do that."


def test_a_training_that_diverged_has_a_status_of_its_own(capsys):
    def main():
        check_loss(float("nan"), 3, "runs/here", "a broken picture")

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == DIVERGED_STATUS
    assert capsys.readouterr().err.startswith("Error: The loss of step 3 is nan.")


def test_a_loss_after_training_is_looked_at_too():
    assert check_trained(0.5, "these", "runs/here") == 0.5
    with pytest.raises(DivergedError, match="After training, the loss of these is inf: the run in runs/here diverged"):
        check_trained(float("inf"), "these", "runs/here")


@pytest.mark.parametrize("words", ["", "Interrupted. Resume."])
def test_an_interrupt_ends_in_one_line(words, capsys):
    def main():
        raise KeyboardInterrupt(*([words] if words else []))

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == 130 and capsys.readouterr().err.strip() == (words or "Interrupted.")


def test_our_own_mistakes_keep_their_traceback():
    def main():
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        run_command(main)


def test_a_main_that_ends_well_is_run_once_and_exits_as_usual():
    calls = []
    run_command(lambda: calls.append(1))
    assert calls == [1]


def test_the_named_library_is_silenced():
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub = huggingface_hub.utils.logging
    hubs = hub.get_verbosity()
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        quiet_libraries("transformers")
        assert logging.get_verbosity() == logging.ERROR and not logging.is_progress_bar_enabled()
        assert hub.get_verbosity() == hub.ERROR
    finally:
        logging.set_verbosity(before)
        hub.set_verbosity(hubs)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


def test_the_traceback_of_accelerates_launcher_is_announced(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(
        "from reslora_sd.training.command import run_command\n"
        "def main():\n    raise ValueError('This is wrong.')\n"
        "run_command(main)\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--quiet", script]
    done = subprocess.run([*map(str, launch)], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert lines[-2] == "Error: This is wrong." and "accelerate launch --quiet leaves it out" in lines[-1]


@pytest.mark.slow
def test_a_pipeline_and_its_lora_are_loaded_without_a_word(tiny_pipeline_folder, tmp_path):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_folder, subfolder="unet")
    out, width = unet.get_submodule(name).weight.shape
    block = PlainBlock(torch.ones(1, width), torch.ones(out, 1), 1.0)
    PlainLoRA({name: block}).save_diffusers(tmp_path)
    load = f"""
from reslora_sd.runs.failures import DIVERGED_STATUS, DivergedError
from reslora_sd.training.checks import check_loss, check_trained
from reslora_sd.training.command import quiet_libraries
quiet_libraries()
from diffusers import StableDiffusionPipeline
StableDiffusionPipeline.from_pretrained({str(tiny_pipeline_folder)!r}).load_lora_weights({str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-W", "ignore::FutureWarning", "-c", load], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
