import json

from reslora_sd import benchmark


def test_the_benchmark_times_every_method_beside_peft(tmp_path, monkeypatch, tiny_pipeline_folder, capsys):
    monkeypatch.setattr(benchmark, "_QUICK_SECONDS", 0.0)
    benchmark.main(
        ["--quick", "--json", str(tmp_path / "b.json"), "--base_model", str(tiny_pipeline_folder), "--rank", "4"]
    )
    result = json.loads((tmp_path / "b.json").read_text())
    assert list(result["methods"]) == ["peft", "lora", "reslora_is", "reslora_bs", "reslora_ms"]
    assert result["methods"]["peft"]["seconds_to_peft"] == 1.0
    assert all(row["peak_bytes"] > 0 for row in result["methods"].values())
    assert "to PEFT" in capsys.readouterr().out
