"""The page at `/`: Gradio's own, made once, with what is chosen already in it, and the first pictures before Gradio.

Gradio's page asks the server for the values of its menus after it has loaded its hundred scripts. Ours brings them
along, and shows pictures by a script of ours that needs none of Gradio.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from .answers import Answers
from .limits import TooSlowError
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
"""Of a query: what the page is known by, and what makes its parts. Both may raise `TooSlowError`."""
_Template = tuple[str, dict[str, Any], str]
_log = logging.getLogger("uvicorn.error")


class Shell:
    """Makes the page of a request.

    Args:
        parts: what is put into Gradio's page for a query.
        styles: those that the page brings along, by their addresses: they would be half of its requests.
        without: what is put there where that isn't to be had, and why. Its script then asks for the rest, as soon as
            Gradio runs.
    """

    def __init__(self, parts: Ask, styles: Mapping[str, str], without: Callable[[str], Parts], most: int = 200) -> None:
        self.parts, self.styles, self.without = parts, styles, without
        self._templates: OrderedDict[tuple[bytes, ...], _Template] = OrderedDict()
        self._made = Answers(most)
        self._told = False

    async def __call__(self, scope: Scope, of_gradio: Callable[[], Awaitable[bytes]]) -> Answer:
        """The page, made anew only when what it holds has changed; Gradio's own where ours can't be made of it."""
        query = scope["query_string"].decode("latin-1")
        try:
            name, template = await self._template(scope, of_gradio)
            made = await run_in_threadpool(self._page, name, template, query)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            if not self._told:
                _log.warning("The page opens more slowly than it could: Gradio's isn't as expected.", exc_info=error)
            self._told = True
            why = "This page opens slowly: it doesn't know this version of Gradio. The server's log says more."
            plain = _plain_page((await of_gradio()).decode("utf-8", "replace"), self.without(why))
            made = await run_in_threadpool(gzip.compress, plain.encode(), 6)
        return packed(made, b"text/html; charset=utf-8")

    async def _template(self, scope: Scope, of_gradio: Callable[[], Awaitable[bytes]]) -> tuple[Any, _Template]:
        headers = dict(scope["headers"])
        name = (str(scope.get("scheme")).encode(), *(headers.get(one, b"") for one in _NAMED_BY))
        found = self._templates.get(name) or _taken_apart((await of_gradio()).decode())
        self._templates[name] = found
        self._templates.move_to_end(name)
        while len(self._templates) > _MOST_NAMES:
            self._templates.popitem(last=False)
        return name, found

    def _page(self, name: Any, template: _Template, query: str) -> bytes:
        """A page that says why it has no pictures isn't kept: the next visitor may get them."""
        try:
            known_by, make = self.parts(query)
            found: bytes = self._made.get((name, known_by), lambda: _page(template, self.styles, *make()))
            return found
        except TooSlowError as error:
            return _page(template, self.styles, *self.without(str(error)))


def _plain_page(whole: str, parts: Parts) -> str:
    """Gradio's page with our script, which then asks it for everything."""
    _, head, start = parts
    if "</head>" in whole:
        whole, head = whole.replace("</head>", f"{head}</head>", 1), ""
    body = re.search("<body[^>]*>", whole)
    place = body.end() if body else len(whole)
    return f"{whole[:place]}{head}{start}{whole[place:]}"


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
