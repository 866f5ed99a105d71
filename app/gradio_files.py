"""Which of Gradio's scripts and styles our page needs: what Gradio's own scripts name, one after the other.

They are minified, and may look different in another version of Gradio. What isn't found here is then asked for by the
browser, as in any page of Gradio.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_FIRST = re.compile(r'(?:src|href)="\./assets/([\w.-]+)"')
_IMPORTED = re.compile(r"""(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")
_PARTS = re.compile(r"m\.f=\[(.*?)\]")
_COMPONENT = re.compile(r"component:.*?import\(`\./([\w.-]+)`\).*?mapDeps\(\[([\d,]*)\]\)")
_MAIN = re.compile(r"import\(`\./((?:Index|Blocks)-[\w.-]+)`\).*?mapDeps\(\[([\d,]*)\]\)")
_MOST = 400_000
"""Letters of styles in a page."""


def styles(folder: Path, kinds: Sequence[str], most: int = _MOST) -> dict[str, str]:
    """The styles that a page needs, by their addresses: those that Gradio's page begins with, which the others go on
    from, then these in the order of their names.

    Args:
        folder: Gradio's `templates/frontend`.
        kinds: of the page's components.
        most: letters that they may have together; what comes later is left out.
    """
    first, asked = _FIRST.findall(_read(folder / "index.html")), set[str]()
    wave = set(first)
    while wave:
        asked |= wave
        scripts = (_read(folder / "assets" / name) for name in wave if name.endswith(".js"))
        wave = set().union(*(named(script, kinds) for script in scripts)) - asked
    found: dict[str, str] = {}
    for name in sorted((one for one in asked if one.endswith(".css")), key=lambda one: (one not in first, one)):
        style = _read(folder / "assets" / name)
        # what it names by a relative address is beside it, and not beside the page
        alone = not re.search(r"url\((?![\"']?(?:data:|#))|@import|</style", style)
        if style and alone and sum(map(len, found.values())) + len(style) <= most:
            found[f"/assets/{name}"] = style
    return found


def named(script: str, kinds: Sequence[str]) -> set[str]:
    """The files that a script of Gradio's asks for in a page with components of these kinds."""
    return {*_IMPORTED.findall(script), *component_scripts(script, kinds)}


def component_scripts(text: str, kinds: Sequence[str]) -> set[str]:
    """What a script of Gradio's will ask for later: the page's main parts, and its components of these kinds, each with
    all that it imports."""
    parts = _PARTS.search(text)
    files = re.findall(r'"\./([\w.-]+)"', parts[1]) if parts else []
    if "component:()=>" in text:
        entries = [re.search(rf"[{{,]\"?{re.escape(kind)}\"?:\{{(.*?import\.meta\.url\)\}})", text) for kind in kinds]
        found = [_COMPONENT.search(entry[1]) for entry in entries if entry]
    else:
        found = list(_MAIN.finditer(text))
    asked: set[str] = set()
    for own in filter(None, found):
        asked |= {own[1], *(files[int(place)] for place in own[2].split(",") if place)}
    return asked


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
