"""The benchmark of the script beside diffusers' own, small: ours, and a script that stands for theirs."""

import pytest

from reslora_sd.diffusion import script_benchmark

THEIRS = """
import sys
import diffusers, torch
assert "--train_data_dir" in sys.argv and "--method" not in sys.argv
name = sys.argv[sys.argv.index("--pretrained_model_name_or_path") + 1]
model = diffusers.UNet2DConditionModel.from_pretrained(name, subfolder="unet")
optimizer = torch.optim.AdamW(model.parameters())
for step in range(1000):
    optimizer.step()
raise SystemExit("it was to end before")
"""


@pytest.mark.slow
def test_both_scripts_are_measured_up_to_the_same_step(capsys, tmp_path, monkeypatch, tiny_pipeline_folder):
    (tmp_path / "theirs.py").write_text(THEIRS)
    ways = (script_benchmark.WAYS[0], script_benchmark.WAYS[-1])
    monkeypatch.setattr(script_benchmark, "WAYS", ways)
    size = ["--pictures", "4", "--width", "40", "--height", "30", "--resolution", "16", "--steps", "2"]
    model = ["--base_model", str(tiny_pipeline_folder)]
    script_benchmark.main([*size, *model, "--diffusers_script", str(tmp_path / "theirs.py")])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line[:40].strip() for line in lines] == [way.name for way in ways]
    assert all(float(number) >= 0 for line in lines for number in line[40:].split())


@pytest.mark.parametrize("words", [("--pictures", "3"), ("--steps", "0")])
def test_less_than_a_batch_is_refused(capsys, words):
    with pytest.raises(SystemExit):
        script_benchmark.main(words)
    assert "A batch has 4: take one, or more" in capsys.readouterr().err
