"""The README's code runs, and its commands name flags that exist."""

import dataclasses
import re
import shlex

import diffusers
import pytest

from reslora_sd.diffusion.arguments import make_parser
from reslora_sd.text.arguments import CLASSIFICATION, GENERATION
from tests.scripts import ROOT
from train_scripts import compare_text_methods

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert (tmp_path / "cat.png").is_file() and (tmp_path / "my_lora" / "pytorch_lora_weights.safetensors").is_file()
    assert "88 blocks, 64 with a residual path" in capsys.readouterr().out
    assert diffusers


def commands(script):
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    return [line for line in text.splitlines() if script in line]


def arguments_of(line):
    words = shlex.split(line, comments=True)
    start = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return words[start + 1 :]


def test_the_commands_of_comparisons_parse():
    found = {}
    for line in commands("compare_text_methods.py"):
        args, more = compare_text_methods.parse(arguments_of(line))
        script = GENERATION if args.task == "svamp" else CLASSIFICATION
        own = script.parse([word for word in more if word != "--bf16"])
        found[args.task] = (args, own)
    args, own = found["svamp"]
    assert len(args.learning_rates) == 5 and own.data.max_eval_samples == 50
    for task, steps in (("mrpc", 200), ("cola", 1200), ("rte", 150)):
        args, own = found[task]
        assert len(args.methods) == 7 and args.max_steps == steps
        assert all(len(rates) >= 3 for rates in args.rates.values())


@pytest.mark.parametrize("line", commands("train_text_to_image_reslora.py"))
def test_commands_parse(line):
    make_parser().parse_args(arguments_of(line))


@pytest.mark.parametrize(
    ("name", "script", "count"), [("train_nlg_reslora", GENERATION, 2), ("train_nlu_reslora", CLASSIFICATION, 5)]
)
def test_commands_of_the_text_scripts_parse(name, script, count):
    lines = commands(f"{name}.py")
    assert len(lines) == count
    for line in lines:
        # what DeepSpeed's settings and half precision ask of the machine is not asked here
        words = re.sub(r"--deepspeed \S+|--bf16", "", shlex.join(arguments_of(line)))
        args = script.parse([*shlex.split(words), "--use_cpu"])
        others = {"mnli": ("full",), "rte": ("lora", "full")}  # where RTE starts, and what learns it without
        method = args.method.method
        assert method.startswith("reslora") or method in others[args.data.task]


def test_flags_that_the_readme_names_exist():
    known = {f"--{action.dest}" for action in make_parser()._actions} | {"--no-cache_latents", "--help"}
    for script in (GENERATION, CLASSIFICATION):
        known |= {f"--{action.dest}" for action in script.parser()._actions}
    known |= {f"--{field.name}" for field in dataclasses.fields(compare_text_methods.TextComparison)}
    others = "--nproc_per_node --json --quick --adam_ --num_cpu_threads_per_process --num_processes --no-deps"
    others += " --host --port --allow --trainings --side"  # of the page
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README)) - set(others.split())
    assert named <= known
