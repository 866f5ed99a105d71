"""Makes the README's screenshots of the page again, from the demo's runs: python -m tests.app.screenshots"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from app.__main__ import DEMO
from tests.app.browser import chromium, open_page, serving, show_tab
from tests.scripts import ROOT

_COLOURS = 255


def save(page: Any, path: Path, whole: bool = False) -> None:
    """A PNG of few colours: several times smaller, and not to be told apart."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


def take(browser: Any, address: str, folder: Path) -> None:
    """Compare, the grid, the curves, the adapter."""
    page = open_page(browser, address, 1280, 910)
    page.wait_for_selector("#side-1 img")
    page.wait_for_timeout(1000)
    save(page, folder / "page_compare.png")
    show_tab(page, "Grid")
    page.wait_for_selector("#grid img")
    page.wait_for_timeout(1000)
    save(page, folder / "page_grid.png", whole=True)
    show_tab(page, "Curves")
    page.wait_for_selector("#curve-memory svg")
    page.wait_for_timeout(2000)
    save(page, folder / "page_curves.png", whole=True)
    show_tab(page, "Inside the adapter")
    page.wait_for_selector("#heat svg")
    page.set_viewport_size({"width": 1280, "height": 1400})
    page.wait_for_timeout(1000)
    save(page, folder / "page_inside.png")
    page.context.close()


def main() -> None:
    """Serves the runs, and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, default=[ROOT / path for path in DEMO])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        serving(args.runs, Path(place, "here")) as address,
        chromium() as browser,
    ):
        take(browser, address, args.folder)


if __name__ == "__main__":
    main()
