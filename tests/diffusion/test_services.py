"""Trackers and the Hub: found out before the training, and nothing private uploaded unasked."""

import json

import huggingface_hub
import pytest

from reslora_sd.diffusion.reports import check_services, push_to_hub
from reslora_sd.diffusion.settings import OutputSettings
from reslora_sd.runs.folder import RunFolder

PRIVATE = {"validation/real.jsonl", "validation/real/0.png", "logs/text2image-reslora/events.out.tfevents.1"}


@pytest.mark.parametrize(
    ("tracker", "words"),
    [("wandb", r"wandb isn't installed\. Run: pip install wandb"), ("my_notes", "my_notes is no tracker")],
)
def test_a_tracker_that_is_not_there_is_told_before_the_training(train, tmp_path, monkeypatch, tracker, words):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ValueError, match=rf"--report_to {words}"):
        train("--report_to", tracker)
    assert not list(tmp_path.glob("run/*.json*"))


def test_a_hub_that_takes_nothing_is_told_before_the_training(train, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "whoami", lambda token: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(ValueError, match=r"--push_to_hub: nothing can be uploaded \(ConnectionError: no network\)"):
        train("--push_to_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        train("--push_to_hub")
    assert not list(tmp_path.glob("run/*.json*"))


def test_a_name_that_the_hub_refuses_is_told(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "whoami", lambda token: {})
    check_services(OutputSettings(output_dir="runs/rex", push_to_hub=True))
    with pytest.raises(ValueError, match="nothing can be uploaded"):
        check_services(OutputSettings(output_dir="runs/rex", push_to_hub=True, hub_model_id="a/b/c"))


@pytest.mark.parametrize("asked", [False, True])
def test_private_files_are_uploaded_only_where_they_are_asked_for(tmp_path, monkeypatch, asked):
    run, uploaded = RunFolder(tmp_path / "run"), {}
    run.begin({"arguments": {"train_data_dir": str(tmp_path / "me"), "prompt": "a/b"}, "base_model": "owner/model"})
    for name in ("pytorch_lora_weights.safetensors", "checkpoint-2/optimizer.bin", ".lock", *PRIVATE):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(name)

    def upload_folder(repo_id, token, folder_path, ignore_patterns):
        names = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        kept = huggingface_hub.utils.filter_repo_objects(names, ignore_patterns=ignore_patterns)
        uploaded.update({name: (folder_path / name).read_bytes() for name in kept})

    def upload_file(repo_id, token, path_or_fileobj, path_in_repo):
        uploaded[path_in_repo] = path_or_fileobj

    monkeypatch.setattr(
        huggingface_hub, "create_repo", lambda *_, **__: huggingface_hub.RepoUrl("https://huggingface.co/o/rex")
    )
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "upload_file", upload_file)
    push_to_hub(OutputSettings(output_dir=str(run.path), push_to_hub=True, hub_private_files=asked), run)
    public = {"pytorch_lora_weights.safetensors", "run.json", "log.jsonl", "validation/index.jsonl"}
    assert uploaded.keys() == (public | PRIVATE if asked else public)
    assert (str(tmp_path) in uploaded["run.json"].decode()) == asked
    settings = json.loads(uploaded["run.json"])
    assert settings["arguments"]["prompt"] == "a/b" and settings["base_model"] == "owner/model"
