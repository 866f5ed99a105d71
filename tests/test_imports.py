"""The drawing of the imports: no circles, rooms in one direction, and a front door that costs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.scripts import ROOT

PACKAGE = "reslora_sd"
Graph = Mapping[str, set[str]]
MAY_IMPORT = {
    "runs": set(),
    "modes": set(),
    "config": {"runs"},
    "plan": {"config", "modes"},
    "blocks": {"config", "plan"},
    "files": {"runs", "config", "blocks"},
    "adapter": {"config", "plan", "blocks", "files"},
    "merging": {"runs", "config", "modes", "plan", "blocks", "files", "adapter"},
}
"""What each room of the core may import beside itself."""


def modules() -> dict[str, Path]:
    """Files of the package by their dotted name; `reslora_sd/__init__.py` is no room, but the front door."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_by(path: Path, package: str, inside: Mapping[str, Path]) -> Iterator[str]:
    """Whatever a file imports anywhere in it: in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in inside else base


def import_graph() -> dict[str, set[str]]:
    """Modules of the package that each of its modules imports."""
    inside = modules()
    graph = {}
    for name, path in inside.items():
        if name != PACKAGE:
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            targets = imported_by(path, package, inside)
            graph[name] = {target for target in targets if target.split(".")[0] == PACKAGE} - {PACKAGE, name}
    return graph


def room(module: str) -> str:
    """The folder directly in the package, or the module itself."""
    return module.split(".")[1]


def rooms(graph: Graph) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        found.setdefault(room(module), set()).update({room(target) for target in targets} - {room(module)})
    return found


def circle_of(graph: Graph) -> list[str]:
    """A circle, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_found_also_where_only_type_checkers_see_it(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import x\n")
    second.write_text("def f():\n    from . import a\n")
    inside = {"p.a": first, "p.b": second}
    graph = {name: set(imported_by(path, "p", inside)) & inside.keys() for name, path in inside.items()}
    assert graph == {"p.a": {"p.b"}, "p.b": {"p.a"}}
    assert set(circle_of(graph)) == {"p.a", "p.b"} and not circle_of({"p.a": {"p.b"}, "p.b": set()})


def test_the_graph_holds_the_package():
    graph = import_graph()
    assert "reslora_sd.config" in graph["reslora_sd.blocks.block"]
    assert "reslora_sd.blocks.equations" in graph["reslora_sd.blocks.branch"]  # from . import equations


def test_no_files_import_each_other_in_a_circle():
    assert not circle_of(import_graph())


def test_no_folders_import_each_other_in_a_circle():
    assert not circle_of(rooms(import_graph()))


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_the_core_imports_in_one_direction(name):
    assert rooms(import_graph())[name] <= MAY_IMPORT[name]


def test_pretrain_may_know_diffusion_and_never_the_other_way_round():
    found = rooms(import_graph())
    assert "pretrain" not in found["diffusion"] | found["text"]
    assert {"diffusion", "text", "pretrain"}.isdisjoint(found["runs"] | found["training"])


def test_runs_imports_the_standard_library_filelock_and_itself_alone():
    inside = modules()
    for name, path in inside.items():
        if not name.startswith(f"{PACKAGE}.runs"):
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for target in imported_by(path, package, inside):
            allowed = target.split(".")[0] in {*sys.stdlib_module_names, "filelock"}
            assert allowed or target.startswith(f"{PACKAGE}.runs") or target == PACKAGE, f"{name} imports {target}"


def test_the_front_door_the_settings_and_runs_load_no_torch():
    light = [name for name in modules() if name.split(".")[1:2] in ([], ["runs"], ["config"])]
    assert f"{PACKAGE}.config" in light and f"{PACKAGE}.runs.names" in light
    code = f"import sys, {', '.join(light)}\nfrom {PACKAGE} import ResLoRAConfig\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
