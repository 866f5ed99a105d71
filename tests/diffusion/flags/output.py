"""Flags of where everything goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from reslora_sd.files.storage import load_tensors
from tests.diffusion.flags import seen
from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

WRITTEN = (
    *("--output_dir", "mine/here", "--report_to", "tensorboard", "--logging_dir", "notes"),
    *("--checkpointing_steps", 1, "--max_train_steps", 3),
)
UPLOADED = (
    *("--push_to_hub", "--hub_model_id", "someone/rex", "--hub_token", "hf_secret", "--hub_private_files"),
    *("--report_to", "tensorboard"),
)
TO_THE_HUB = ("--push_to_hub",)

elsewhere(
    checkpoints_total_limit="test_train_script.py::test_only_so_many_checkpoints_stay",
    overwrite_output_dir="test_train_script.py::test_another_run_is_not_overwritten_unasked",
    resume_from_checkpoint="test_train_script.py::test_a_resumed_run_is_the_straight_run",
    report="test_train_script.py::test_a_run_leaves_what_the_design_says",
    no_report="test_finish.py::test_the_impatient_get_the_file_alone",
)


@row("output_dir", *WRITTEN)
def the_run_is_there(it: Seen, plain: Seen) -> None:
    assert it.run == it.place / "mine" / "here" and len(it.log) == 3


@row("report_to", *WRITTEN)
def the_tracker_gets_every_step(it: Seen, plain: Seen) -> None:
    assert len(list(it.run.rglob("events.out.tfevents.*"))) >= 1


@row("logging_dir", *WRITTEN)
def the_tracker_writes_there(it: Seen, plain: Seen) -> None:
    assert list(it.run.glob("notes/**/events.out.tfevents.*"))
    assert not (it.run / "logs").exists()


@row("checkpointing_steps", *WRITTEN)
def checkpoints_are_written_every_so_many_steps(it: Seen, plain: Seen) -> None:
    assert {path.name for path in it.run.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (1, 2, 3)}


@row("save_precision", "--save_precision", "bf16", "--no_report", without=("--no_report",), whole=True)
def both_exported_files_hold_such_numbers(it: Seen, plain: Seen) -> None:
    for name in ("pytorch_lora_weights.safetensors", f"{it.run.name}.safetensors"):
        tensors = load_tensors(it.run / name)[0]
        assert {value.dtype for key, value in tensors.items() if not key.endswith(".alpha")} == {torch.bfloat16}
    assert "Saved in bf16: rounding changes the LoRA by 0." in it.said


def with_hub(patch: pytest.MonkeyPatch) -> None:
    """A stand-in of the Hub, which notes what it gets."""

    def note(name: str, result: Any = None) -> Any:
        def call(*args: Any, **given: Any) -> Any:
            seen.SENT.append((name, {**given, "args": args}))
            return result

        return call

    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr(huggingface_hub, "whoami", note("whoami", {}))
    patch.setattr(huggingface_hub, "create_repo", note("create", huggingface_hub.RepoUrl("https://huggingface.co/o/r")))
    patch.setattr(huggingface_hub, "upload_folder", note("folder"))
    patch.setattr(huggingface_hub, "upload_file", note("file"))


def got(it: Seen, name: str) -> dict[str, Any]:
    """What the Hub was given in its only call of this name."""
    calls = [given for kind, given in it.sent if kind == name]
    assert len(calls) == 1, it.sent
    return dict(calls[0])


@row("push_to_hub", *UPLOADED, setup=with_hub)
def the_run_folder_is_uploaded_once(it: Seen, plain: Seen) -> None:
    assert Path(got(it, "folder")["folder_path"]).name == it.run.name


@row("hub_model_id", *UPLOADED, without=TO_THE_HUB, setup=with_hub)
def it_is_uploaded_under_this_name(it: Seen, plain: Seen) -> None:
    assert got(it, "create")["args"] == ("someone/rex",)


@row("hub_token", *UPLOADED, without=TO_THE_HUB, setup=with_hub)
def every_call_has_it_and_no_file(it: Seen, plain: Seen) -> None:
    assert {given["token"] for _, given in it.sent} == {"hf_secret"}
    assert not any(b"hf_secret" in path.read_bytes() for path in it.run.rglob("*") if path.is_file())


@row("hub_private_files", *UPLOADED, without=TO_THE_HUB, setup=with_hub)
def nothing_but_checkpoints_is_left_out(it: Seen, plain: Seen) -> None:
    assert got(it, "folder")["ignore_patterns"] == ["checkpoint-*/*", ".*"]


def make_config(file: Path) -> Path:
    file.write_text("rank: 3\n")
    return file


@row("config", "--config", "@config", "--rank", None)
def its_flags_count(it: Seen, plain: Seen) -> None:
    assert {min(value.shape) for value in it.saved().values()} == {3}
