"""Runs the notebook as a reader would, and writes it back with what it said and drew.

python -m tests.notebook
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from tests.scripts import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
_TIMEOUT = 900  # seconds for a cell
_COLOURS = 255


def executed(folder: Path, replaced: Mapping[str, str] | None = None) -> Any:
    """The notebook after all of its cells ran in `folder`.

    Args:
        replaced: parts of its code, each there once, and what stands in their place.

    Raises:
        ValueError: such a part isn't there once.
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for old, new in (replaced or {}).items():
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        if len(cells) != 1 or cells[0].source.count(old) != 1:
            raise ValueError(f"{NOTEBOOK} should have {old!r} once.")
        cells[0].source = cells[0].source.replace(old, new)
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where reslora-train is
    client = NotebookClient(notebook, timeout=_TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute(env={**os.environ, "PATH": commands, "PYTHONPATH": str(ROOT)})
    return notebook


def tidied(notebook: Any) -> Any:
    """The same as it is worth reading: of a bar that was drawn over and over, the last state; no clocks.

    What libraries advise on stderr is left out, and paths are those in the repository. Pictures get few colours:
    several times smaller, and not to be told apart.
    """
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs = cell.pop("outputs", [])
        said = "".join(one.text for one in outputs if one.output_type == "stream" and one.name == "stdout")
        lines = [line.rstrip("\r").rpartition("\r")[2].replace(f"{ROOT}/", "") for line in said.split("\n")]
        kept = [one for one in outputs if one.output_type != "stream"]
        for one in kept:
            one.get("data", {}).pop("image/jpeg", None)
            if "image/png" in one.get("data", {}):
                one.data["image/png"] = _smaller(one.data["image/png"])
        if cell.cell_type == "code":
            stream = [nbformat.v4.new_output("stream", text="\n".join(lines))] if said else []
            cell.outputs = [*stream, *kept]
    return notebook


def _smaller(png: str) -> str:
    """The same picture, with fewer colours, as base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(file := io.BytesIO(), format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Runs it in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(tidied(executed(Path(folder))), NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
