"""The page at `/`: Gradio's own, made once, with what is chosen already in it, and the first pictures before Gradio.

Gradio's page asks the server for the values of its menus after it has loaded its hundred scripts. Ours brings them
along, and shows pictures by a script of ours that needs none of Gradio.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from .quick import Answer, Scope, packed

_CONFIG = "window.gradio_config = "
_NAMED_BY = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix", b"x-gradio-server")
"""Headers that Gradio takes the page's own address from."""
_MOST_NAMES = 20
_LATER = r'<link rel="modulepreload" crossorigin href="\1" id="gradio-later">'
_NOT_SENT = ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs")
"""Of each component: for programs that use a page without a browser. Ours has no such interface."""

Parts = tuple[Mapping[str, Mapping[str, Any]], str, str]
"""Properties of components by their `elem_id`, HTML for the head, and for the start of the body."""
Ask = Callable[[str], tuple[Any, Callable[[], Parts]]]
"""Of a query: what the page is known by, and what makes its parts."""


class Shell:
    """Makes the page of a request.

    Args:
        parts: what is put into Gradio's page for a query.
    """

    def __init__(self, parts: Ask, most: int = 200) -> None:
        self.parts, self.most = parts, most
        self._templates: OrderedDict[tuple[bytes, ...], tuple[str, dict[str, Any], str]] = OrderedDict()
        self._made: OrderedDict[tuple[Any, ...], Answer] = OrderedDict()

    async def __call__(
        self, scope: Scope, of_gradio: Callable[[], Awaitable[bytes]], styles: Mapping[str, str]
    ) -> Answer:
        """The page, made anew only when what it holds has changed."""
        headers = dict(scope["headers"])
        name = (str(scope.get("scheme")).encode(), *(headers.get(one, b"") for one in _NAMED_BY))
        if name not in self._templates:
            self._templates[name] = _taken_apart((await of_gradio()).decode())
            _shorten(self._templates, _MOST_NAMES)
        known_by, make = await run_in_threadpool(self.parts, scope["query_string"].decode("latin-1"))
        key = (name, known_by, len(styles))
        if key not in self._made:
            made = await run_in_threadpool(lambda: _page(self._templates[name], dict(styles), *make()))
            self._made[key] = packed(made, b"text/html; charset=utf-8")
            _shorten(self._made, self.most)
        return self._made[key]


def _shorten(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def _taken_apart(whole: str) -> tuple[str, dict[str, Any], str]:
    """What comes before Gradio's configuration, itself, and what comes after."""
    start = whole.index(_CONFIG) + len(_CONFIG)
    config, end = json.JSONDecoder().raw_decode(whole, start)
    for one in config["components"]:
        for name in _NOT_SENT:
            one.pop(name, None)
    return whole[:start], config, whole[end:]


def _page(
    template: tuple[str, dict[str, Any], str],
    styles: Mapping[str, str],
    properties: Mapping[str, Any],
    head: str,
    start: str,
) -> bytes:
    before, config, after = template
    components = [
        {**one, "props": {**one["props"], **properties.get(one["props"].get("elem_id") or "", {})}}
        for one in config["components"]
    ]
    # Gradio loads no style whose link is there; one that is switched off isn't fetched
    links = "".join(f'<link rel="stylesheet" href=".{path}" disabled>' for path in styles)
    for path in styles:
        after = after.replace(f'<link rel="stylesheet" crossorigin href=".{path}">', "")
    end = after.index("</head>")
    after = f"{after[:end]}<style>{''.join(styles.values())}</style>{links}{after[end:]}"
    # its script would keep the browser from painting: ours starts it once the first pictures are there
    after = re.sub(r'<script type="module" crossorigin src="(\./assets/[\w.-]+)"></script>', _LATER, after)
    opened = after.index(">", after.index("<body")) + 1
    at = before.rindex("<script>")
    body = f"{after[:opened]}{start}{after[opened:]}"
    whole = f"{before[:at]}{head}{before[at:]}{in_page({**config, 'components': components})}{body}"
    return gzip.compress(whole.encode(), 9, mtime=0)


def in_page(value: object) -> str:
    """JSON that can stand in a script of a page."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
