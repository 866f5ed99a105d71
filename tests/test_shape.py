"""The house's own limits, counted in formatted code: files of 300 lines, functions of 40 (a script's main: 150)."""

import ast
import re
import subprocess
import sys

import pytest

from tests.scripts import ROOT

FOLDERS = ("reslora_sd", "train_scripts", "app")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
UNFORMATTED = re.compile(r"#\s*(fmt|yapf):\s*(skip|off|disable)")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = 150 if node.name == "main" else 40
            length = (node.end_lineno or 0) - node.lineno + 1
            documented = ast.get_docstring(node)
            length -= len(documented.splitlines()) if documented else 0
            assert length <= limit, f"{node.name} has {length} lines"


def test_what_is_counted_is_formatted():
    done = subprocess.run([sys.executable, "-m", "ruff", "format", "--check", *FOLDERS], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_the_formatter_is_switched_off_nowhere(folder):
    for path in (ROOT / folder).rglob("*.py"):
        found = UNFORMATTED.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found}. Make it shorter instead, or split it."
