"""Reading a run never needs torch, and views never need Gradio."""

import ast
import subprocess
import sys

import pytest

from reslora_sd.runs import names
from tests.scripts import ROOT

_READ = """
import sys
from pathlib import Path
from app import adapter_view, curves, drawings, grids, pictures
from app.library import Library
library = Library([Path(path) for path in sys.argv[1:]])
runs = library.get(library.names())
name, run = next(iter(runs.items()))
assert run.log and drawings.link_plan(run) and not curves.table(runs, "loss").empty
grids.grid(runs, run.prompts(), 42, "unmerged")
pictures.views(runs, "rocket", 42, "unmerged", 5)
import app.training, app.uploads, app.draw_request, app.server
heavy = {"torch", "diffusers", "transformers", "gradio", "fastapi"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_reading_drawing_and_starting_load_neither_torch_nor_gradio(made_up_pair):
    command = [sys.executable, "-W", "error", "-c", _READ, *map(str, made_up_pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_page_is_built_without_torch(made_up):
    code = """
import sys
from pathlib import Path
from app.library import Library
from app.tabs.page import build
from app.tabs.shared import Page
build(Page(Library([Path(sys.argv[1])]), Path("/tmp"), Path("/tmp")))
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(made_up)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "app").glob("*.py")), ids=lambda path: path.name)
def test_only_the_tabs_know_gradio(path):
    assert "import gradio" not in path.read_text(encoding="utf-8")


SHARED = {
    value
    for name, value in vars(names).items()
    if isinstance(value, str) and (name.endswith(("_FILE", "_FOLDER")) or name in ("UNMERGED", "BASE", "OPENMOJI"))
} | {*names.DEFAULT_PROMPTS, "train_text_to_image_reslora"}


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=lambda path: path.name)
def test_the_page_types_no_name_anew_that_the_scripts_define(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert typed & SHARED == set()
