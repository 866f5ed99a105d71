"""A server of the page as a user starts it, and Debian's Chromium."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.scripts import ROOT

ARTEFACTS = ROOT / "tests" / "artefacts"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_STARTED = "The page is at "


@contextmanager
def serving(runs: Sequence[Path], trainings: Path, *flags: str) -> Iterator[str]:
    """Runs `python -m app` and gives its address."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "app", *map(str, runs), "--trainings", str(trainings), *flags]
    log = trainings.parent / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield address_of(server, log)
    finally:
        server.terminate()
        server.wait(timeout=30)
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said, said  # the page never dies, nor stumbles


def address_of(server: subprocess.Popen[bytes], log: Path) -> str:
    """Waits until the page says where it is."""
    for _ in range(600):
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith(_STARTED):
                return line.removeprefix(_STARTED).split()[0].rstrip("/")
        assert server.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.1)
    raise AssertionError(f"The page did not open within a minute: {log.read_text(encoding='utf-8')}")


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, with a profile of its own that goes away."""
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).is_file():
        raise FileNotFoundError(f"There is no {CHROMIUM}. Run `make browser`, or set CHROMIUM to one that you have.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Any, address: str, width: int = 1440, height: int = 1000, scheme: str = "light") -> Any:
    """A new page with nothing of an earlier one; its `strays` are requests to elsewhere and errors of scripts."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
    )
    page = context.new_page()
    page.strays = []
    ours = (address, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(ours) else page.strays.append(request.url))
    page.on("pageerror", lambda error: page.strays.append(f"script: {error}"))
    page.set_default_timeout(120_000)  # cores may be shared
    page.goto(address)
    page.wait_for_selector("#runs input")
    return page


def show_tab(page: Any, name: str) -> None:
    """Opens a tab, and waits until it is the open one."""
    page.get_by_role("tab", name=name, exact=True).click()
    page.wait_for_selector(f'[role=tab][aria-selected=true]:text-is("{name}")')


def picture(page: Any, name: str) -> None:
    """Keeps a screenshot of the whole page as an artefact of the tests."""
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def barriers(page: Any) -> list[str]:
    """What axe-core finds that keeps people out: serious and critical, contrast and size of targets among them."""
    from axe_playwright_python.base import AXE_SCRIPT

    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({ resultTypes: ['violations'], rules: { 'target-size': { enabled: true } } })")
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
