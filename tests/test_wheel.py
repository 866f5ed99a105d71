"""The wheel: built from a clean copy of the checkout, put into a fresh environment, and used outside the checkout."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tests.conftest import make_picture_folder
from tests.scripts import ROOT

PLACES = {"reslora_sd": "reslora_sd", "app": "reslora_sd/app", "train_scripts": "reslora_sd/train_scripts"}
"""Folders of the checkout, and where they are once installed."""
COMMANDS = (
    "reslora-compare",
    "reslora-compare-text",
    "reslora-convert",
    "reslora-data",
    "reslora-page",
    "reslora-train",
    "reslora-train-nlg",
    "reslora-train-nlu",
)


def call(command: Sequence[str | Path], folder: Path) -> str:
    """Runs a command as a user would, who has no checkout; gives what it prints."""
    unset = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def files_of_the_checkout() -> list[Path]:
    """What git has, so that files that only lie around can't help."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so that nothing tells its files from others")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the network by the setuptools that is installed here."""
    folder = tmp_path_factory.mktemp("build")
    for path in files_of_the_checkout():
        copy = folder / "checkout" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", "."]
    call([*pip, "./checkout"], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the wheel; other packages are read from this one's."""
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    theirs = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # path files that lie there are not read, so that this environment's editable install stays out
    (Path(paths["purelib"]) / "theirs.pth").write_text("\n".join(sorted(theirs)) + "\n", encoding="utf-8")
    python = Path(paths["scripts"]) / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    call([*pip, str(wheel)], folder.parent)
    return Path(paths["scripts"])


def python(programs: Path, code: str, folder: Path) -> str:
    """Runs code in the fresh environment."""
    return call([programs / Path(sys.executable).name, "-c", code], folder).strip()


def test_the_wheel_holds_every_file_and_nothing_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set()
    for path in files_of_the_checkout():
        if path.parts[0] in PLACES:
            wanted.add("/".join([PLACES[path.parts[0]], *path.parts[1:]]))
    assert found == wanted, "see packages and package-data in pyproject.toml; new files have to be known to git"
    assert "reslora_sd/py.typed" in found


def test_what_it_says_about_itself(wheel: Path) -> None:
    (folder,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    about = PathDistribution(folder)
    commands = {point.name: point for point in about.entry_points if point.group == "console_scripts"}
    assert tuple(sorted(commands)) == COMMANDS
    assert about.metadata["License-Expression"] == "Apache-2.0"
    assert "Paper, https://arxiv.org/abs/2402.18039" in about.metadata.get_all("Project-URL", [])


def test_no_import_works_in_a_checkout_alone() -> None:
    for folder in PLACES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                named = [name.name for name in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    named = [node.module or ""]
                wrong = {name.split(".")[0] for name in named} & {"app", "train_scripts", "tests"}
                assert not wrong, f"{path}: {ast.unparse(node)}"


def test_commands_help(programs: Path, tmp_path: Path) -> None:
    """Two as users start them; the functions of all in one process, since most of each is its imports."""
    for command in ("reslora-convert", "reslora-page"):
        assert call([programs / command, "--help"], tmp_path).startswith(f"usage: {command} ")
    code = """
import contextlib, importlib.metadata, io, sys
for command in importlib.metadata.entry_points(group="console_scripts"):
    if command.name in sys.argv[1:]:
        said, words, sys.argv = io.StringIO(), sys.argv, [command.name, "--help"]
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            command.load()()
        sys.argv = words
        print(*said.getvalue().split()[:2])
"""
    told = call([programs / "python", "-c", code, *COMMANDS], tmp_path).splitlines()
    assert sorted(told) == [f"usage: {command}" for command in COMMANDS]
    assert all((programs / command).is_file() for command in COMMANDS)


def test_only_the_package_is_there_and_costs_no_torch(programs: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, sys
import reslora_sd
from reslora_sd import app, train_scripts
assert not any(map(importlib.util.find_spec, ("app", "train_scripts", "tests")))
assert "torch" not in sys.modules
print(reslora_sd.__file__, app.__file__, train_scripts.__file__, sep="\\n")
"""
    home = programs.parent.resolve()
    for file in python(programs, code, tmp_path).splitlines():
        assert home in Path(file).resolve().parents


def test_the_page_finds_the_training_script(programs: Path, tmp_path: Path) -> None:
    script = Path(python(programs, "from reslora_sd.app.training import SCRIPT; print(SCRIPT)", tmp_path))
    assert script.is_file() and programs.parent.resolve() in script.resolve().parents


@pytest.mark.slow
def test_two_steps_of_training_outside_the_checkout(programs: Path, tmp_path: Path) -> None:
    make_picture_folder(tmp_path / "pictures", count=4, size=(64, 64))
    flags = "--train_data_dir pictures --output_dir run --max_train_steps 2 --train_batch_size 1 --rank 4"
    flags += " --calibration_samples 2 --validation_samples 0 --validation_prompts cat --validation_inference_steps 1"
    call([programs / "reslora-train", *flags.split()], tmp_path)
    run = tmp_path / "run"
    assert len((run / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert (run / "merge_report.json").is_file() and (run / "pytorch_lora_weights.safetensors").is_file()
