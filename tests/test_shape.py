"""The house's own limits: files of 300 lines, functions of 40 (a script's main: 150)."""

import ast

import pytest

from tests.scripts import ROOT

FILES = sorted(path for folder in ("reslora_sd", "train_scripts", "app") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            limit = 150 if node.name == "main" else 40
            length = (node.end_lineno or 0) - node.lineno + 1
            documented = ast.get_docstring(node)
            length -= len(documented.splitlines()) if documented else 0
            assert length <= limit, f"{node.name} has {length} lines"
