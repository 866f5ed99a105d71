import json

import pytest

from reslora_sd import benchmark
from reslora_sd.runs.names import METHODS
from reslora_sd.text import benchmark as text_benchmark
from tests.single_files import small_pipeline
from tests.texts import save_small_llama


def test_the_benchmark_times_every_method_beside_peft(tmp_path, monkeypatch, tiny_pipeline_folder, capsys):
    monkeypatch.setattr(benchmark, "QUICK_SECONDS", 0.0)
    benchmark.main(
        ["--quick", "--json", str(tmp_path / "b.json"), "--base_model", str(tiny_pipeline_folder), "--rank", "4"]
    )
    result = json.loads((tmp_path / "b.json").read_text())
    assert list(result["methods"]) == ["peft", *METHODS]
    assert result["methods"]["peft"]["seconds_to_peft"] == 1.0
    assert all(row["peak_bytes"] > 0 for row in result["methods"].values())
    assert "to PEFT" in capsys.readouterr().out


def test_the_text_benchmark_times_ours_and_pefts_methods(tmp_path, monkeypatch):
    monkeypatch.setattr(text_benchmark, "QUICK_SECONDS", 0.0)
    text_benchmark.main(
        ["--quick", "--json", str(tmp_path / "b.json"), "--model", str(save_small_llama(tmp_path)), "--tokens", "9"]
    )
    methods = json.loads((tmp_path / "b.json").read_text())["methods"]
    assert list(methods) == ["peft", *METHODS, "adalora", "loha", "lokr"]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in methods.values())


@pytest.mark.slow
def test_a_familys_shapes_are_measured_with_random_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MODEL_CONFIGS", tmp_path / "configs")
    small_pipeline("sdxl").unet.save_config(tmp_path / "configs" / "sdxl" / "unet")
    flags = "--quick --shapes sdxl --batch_size 1 --rank 4 --gradient_checkpointing"
    benchmark.main([*flags.split(), "--json", str(tmp_path / "b.json")])
    result = json.loads((tmp_path / "b.json").read_text())
    assert (result["base_model"], result["precision"], result["gradient_checkpointing"]) == ("sdxl", "no", True)
    assert all(row["seconds"] > 0 for row in result["methods"].values())
