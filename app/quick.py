"""Answers what every visitor asks for from memory, before it comes to Gradio: the page itself, its scripts, pictures.

Gradio makes each of these anew for each request. With fifty visitors at once, that is what they wait for.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from .limits import TooSlowError

Scope = MutableMapping[str, Any]
Head = tuple[int, list[tuple[bytes, bytes]]]
_SCRIPTS = re.compile(r"/assets/[\w-][\w.-]*")
_MOST_KEPT = 64_000_000
"""Bytes of scripts and styles; Gradio's own are 55 MB on disk, of which a browser asks for one."""
_FOR_GOOD = (b"cache-control", b"private, max-age=31536000, immutable")
_ASK_AGAIN = (b"cache-control", b"no-cache")


class Answer:
    """Status, headers and body of an answer that is kept."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, gzipped: bool = False) -> None:
        self.status, self.headers, self.body, self.gzipped = status, headers, body, gzipped

    async def give(self, scope: Scope, send: Any) -> None:
        """Sends it, unpacked to those who don't take gzip; without its body to those who ask for the head alone."""
        headers, body = self.headers, self.body
        if self.gzipped and takes(scope, b"gzip"):
            headers = [*headers, (b"content-encoding", b"gzip")]
        elif self.gzipped:
            body = await run_in_threadpool(gzip.decompress, body)
        headers = [*headers, *[(b"vary", b"accept-encoding")] * self.gzipped]
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def takes(scope: Scope, coding: bytes) -> bool:
    """Whether a request's Accept-Encoding names a coding, and doesn't weigh it with 0."""
    asked = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding").lower()
    for one in asked.split(b","):
        name, _, weight = one.partition(b";")
        if name.strip() == coding:
            return not re.fullmatch(rb"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return False


def text(said: str, status: int = 200) -> Answer:
    """A few words."""
    return Answer(status, [(b"content-type", b"text/plain; charset=utf-8"), _ASK_AGAIN], said.encode())


def packed(data: bytes, kind: bytes) -> Answer:
    """Gzipped data."""
    return Answer(200, [(b"content-type", kind), _ASK_AGAIN], data, gzipped=True)


class Scripts:
    """Gradio's scripts and styles as it sends them: their names have their content's hash, so they never change."""

    def __init__(self, most: int = _MOST_KEPT) -> None:
        self.most, self.bytes = most, 0
        self._kept: dict[tuple[str, bytes], Answer] = {}

    async def give(self, app: Any, scope: Scope, receive: Any, send: Any) -> None:
        """Sends one, from memory where somebody asked for it in the same way."""
        coding = next((one for one in (b"br", b"gzip") if takes(scope, one)), b"")
        key = (scope["path"], coding)
        if key not in self._kept:
            (status, headers), body = await heard(app, {**scope, "headers": _plain(scope, coding)}, receive)
            # the named file is the same for good; so a browser needn't ask whether it has changed
            kept = [one for one in headers if one[0].lower() in (b"content-type", b"content-encoding", b"vary")]
            answer = Answer(status, [*kept, _FOR_GOOD if status == 200 else _ASK_AGAIN], body)
            if status != 200 or self.bytes + len(body) > self.most:
                await answer.give(scope, send)
                return
            if key not in self._kept:  # others can have asked for it meanwhile
                self._kept[key] = answer
                self.bytes += len(body)
        await self._kept[key].give(scope, send)


def _plain(scope: Scope, coding: bytes) -> list[tuple[bytes, bytes]]:
    """The request's headers without what would bring a part of the file, or none of it."""
    left_out = (b"accept-encoding", b"range", b"if-none-match", b"if-modified-since")
    return [*(one for one in scope["headers"] if one[0] not in left_out), (b"accept-encoding", coding)]


async def heard(app: Any, scope: Scope, receive: Any) -> tuple[Head, bytes]:
    """The whole answer of an app."""
    head: list[Head] = []
    body = bytearray()

    async def keep(message: Any) -> None:
        if message["type"] == "http.response.start":
            head.append((message["status"], list(message.get("headers", []))))
        body.extend(message.get("body", b""))

    await app({**scope, "method": "GET"}, receive, keep)
    return head[0], bytes(body)


Maker = Callable[[Scope, Callable[[], Awaitable[bytes]]], Awaitable[Answer]]


class Quick:
    """Plain ASGI before Gradio's app.

    Args:
        visits: what is asked about runs: pictures, manifests, whether something has changed.
        page: makes the page at `/` of a request, and of Gradio's own page.
    """

    def __init__(self, app: Any, visits: Any, page: Maker) -> None:
        self.app, self.visits, self.page = app, visits, page
        self.scripts = Scripts()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path == "/":
            answer = await self.page(scope, lambda: self._of_gradio(scope, receive))
            await answer.give(scope, send)
        elif path == "/state":
            await (await self._state()).give(scope, send)
        elif path == "/compare.json":
            asked = scope["query_string"].decode("latin-1")
            await (await self._manifest(asked)).give(scope, send)
        elif path.startswith("/pictures/"):
            await (await self._picture(path)).give(scope, send)
        elif _SCRIPTS.fullmatch(path):
            await self.scripts.give(self.app, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _of_gradio(self, scope: Scope, receive: Any) -> bytes:
        """Gradio's own page, without what this request asks for."""
        (status, _), body = await heard(
            self.app, {**scope, "query_string": b"", "headers": _plain(scope, b"")}, receive
        )
        if status != 200:
            raise RuntimeError(f"Gradio answered {status} where its page was asked for.")
        return body

    async def _state(self) -> Answer:
        try:
            return text(await run_in_threadpool(self.visits.state))
        except TooSlowError as error:
            return text(str(error), 503)

    async def _manifest(self, asked: str) -> Answer:
        try:
            data = await run_in_threadpool(self.visits.packed, asked)
        except TooSlowError as error:
            return text(str(error), 503)
        return packed(data, b"application/json")

    async def _picture(self, path: str) -> Answer:
        try:
            key, mark, file = path.removeprefix("/pictures/").split("/", 2)
            data, as_marked = await run_in_threadpool(self.visits.picture, key, mark, file)
            # who knows it by an older mark gets it as it is now, and asks again next time
            return Answer(200, [(b"content-type", b"image/png"), _FOR_GOOD if as_marked else _ASK_AGAIN], data)
        except (ValueError, OSError) as error:
            return text(str(error) if isinstance(error, ValueError) else "The picture can't be read.", 404)
