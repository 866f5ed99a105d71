"""Makes the documents' pictures of the page again, one of them moving, from the demo's runs.

python -m tests.app.screenshots
"""

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


_MOST_FRAMES = 12


def shot(page: Any, whole: bool = False) -> Image.Image:
    """What the page shows."""
    return Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")


def save(page: Any, path: Path, whole: bool = False) -> None:
    """A PNG of few colours: several times smaller, and not to be told apart."""
    shot(page, whole).quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
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


def record(browser: Any, address: str, path: Path) -> None:
    """A GIF: both methods through their steps, then the wipe from one to the other."""
    page = open_page(browser, address, 1120, 860)
    page.wait_for_selector("#side-1 img")
    slider = page.locator("#step input[type=range]")
    steps = int(slider.get_attribute("max")) + 1
    slider.press("Home")
    page.evaluate(
        "document.activeElement.blur()"
    )  # without a ring around the slider; arrows move the step all the same
    page.wait_for_timeout(1500)
    frames, times = [], []
    for _ in range(min(steps, _MOST_FRAMES)):
        frames.append(shot(page))
        times.append(600)
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(900)
    times[-1] = 1800
    page.get_by_role("tab", name="Wipe").click()
    page.wait_for_selector("#wipe img")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    place = page.locator("#wipe-at input[type=range]")
    for share in (80, 60, 40, 20, 50):
        place.fill(str(share))
        page.wait_for_timeout(900)
        frames.append(shot(page))
        times.append(500)
    times[-1] = 1800
    colours = frames[-1].quantize(_COLOURS, dither=Image.Dither.NONE)
    few = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    few[0].save(path, save_all=True, append_images=few[1:], duration=times, loop=0, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
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
        record(browser, address, args.folder / "page.gif")


if __name__ == "__main__":
    main()
