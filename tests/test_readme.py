"""The README's code runs, and its commands name flags that exist."""

import re
import shlex
from pathlib import Path

import diffusers
import pytest

from reslora_sd.diffusion.arguments import make_parser

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert (tmp_path / "cat.png").is_file() and (tmp_path / "my_lora" / "pytorch_lora_weights.safetensors").is_file()
    assert "88 blocks, 64 with a residual path" in capsys.readouterr().out
    assert diffusers


def commands():
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    return [line for line in text.splitlines() if "train_text_to_image_reslora.py" in line]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    words = shlex.split(line, comments=True)
    start = next(place for place, word in enumerate(words) if word.endswith(".py"))
    make_parser().parse_args(words[start + 1 :])


def test_flags_that_the_readme_names_exist():
    known = {f"--{action.dest}" for action in make_parser()._actions} | {"--no-cache_latents", "--help"}
    others = {"--nproc_per_node", "--json", "--quick", "--adam_", "--num_cpu_threads_per_process"}
    others |= {"--host", "--port", "--allow", "--trainings", "--side"}  # of the page
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README)) - others
    assert named <= known
