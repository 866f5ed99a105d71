"""What the LoRA of a run is called for programs that list files by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslora_sd.runs.names import kohya_name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/rex", "rex"),
        ("runs/rex.v2/", "rex.v2"),
        ("runs/reslora_is", "reslora_is"),
        ("rex/reslora_is", "rex-reslora_is"),
        ("runs/x/../rex", "rex"),
        ("/", "lora"),
        ("runs/...", "lora"),
        ("runs/.hidden", "hidden"),
        ("runs/a<b>:c|d", "a_b__c_d"),
        ("runs/a\udcff", "a_"),
        ("runs/" + "ä" * 127, "ä" * 100),
        ("runs/pytorch_lora_weights", "pytorch_lora_weights_kohya"),
        ("runs/my_PyTorch_lora_weights", "my_PyTorch_lora_weights_kohya"),
        ("runs/reslora_adapter", "reslora_adapter_kohya"),
        ("runs/trained_modules", "trained_modules_kohya"),
    ],
)
def test_the_file_is_named_after_the_run_and_never_as_another_of_its_files(folder, name):
    assert kohya_name(Path(folder)) == f"{name}.safetensors"


def test_a_run_in_the_folder_in_which_the_command_runs_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "rex").mkdir()
    monkeypatch.chdir(tmp_path / "rex")
    assert kohya_name(Path(".")) == "rex.safetensors"
