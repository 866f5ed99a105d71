"""Visitors of the page without a browser: each asks a running server for all that a browser would, and in its order.

A visitor has six connections, as a browser has. It asks for the page, for the pictures that the page shows first, for
every script and style of Gradio that the page needs, and for the stream that Gradio keeps open. Scripts come
in the waves in which a browser finds them, with an empty cache, and some that a browser leaves until a tab is opened
come, too. Then it moves: at each move it asks for the pictures of the new step that it doesn't have, and afterwards for
those of the steps beside, as the page's script does. Now and then it asks whether a run has changed. It runs no script
and draws nothing: what a browser itself needs for that comes on top.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .gradio_files import named

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CONNECTIONS = 6
_PAUSE = 0.7
"""Seconds between two moves, as when a page plays."""
_LOOKS_EVERY = 3.0
_CONFIG = "window.gradio_config = "
_FIRST = re.compile(r'<script type="application/json">(.*?)</script>', re.DOTALL)
_NAMED = re.compile(r'(?:src|href)="\./(assets/[\w.-]+)"|(static/js/[\w.]+\.js)')
_SWITCHED_OFF = re.compile(r'href="\./assets/([\w.-]+)" disabled>')


@dataclass
class Visit:
    """Seconds that a visitor waited, and what it took."""

    first: float = 0.0
    """Until the pictures were there that the page shows first."""
    opened: float = 0.0
    """Until the last script was there."""
    moves: list[float] = field(default_factory=list)
    requests: int = 0
    bytes: int = 0
    """Of bodies, as they were sent."""
    opening_requests: int = 0
    opening_bytes: int = 0
    """The same until the page was open."""


class Browser:
    """Connections to one server that stay open, and what came over them."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.visit = Visit()
        self._idle: list[_Connection] = []
        self._free = asyncio.Semaphore(_CONNECTIONS)

    async def get(self, path: str) -> bytes:
        """The body of an answer, unpacked where it is gzipped.

        Raises:
            ValueError: the server answers with an error.
        """
        async with self._free:
            (reader, writer), (status, headers) = await self._answered(path)
            length = headers.get("content-length")
            body = await reader.readexactly(int(length)) if length else await _chunks(reader)
            self._idle.append((reader, writer))
        self.visit.requests += 1
        self.visit.bytes += len(body)
        if status != 200:
            raise ValueError(f"The server answered {status} to {path!r:.200}.")
        return _unpacked(body) if headers.get("content-encoding") == "gzip" else body

    async def keep_open(self, path: str) -> asyncio.StreamWriter:
        """A stream that the server doesn't end."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        self._ask(writer, path)
        self.visit.requests += 1
        return writer

    async def _answered(self, path: str) -> tuple[_Connection, tuple[int, dict[str, str]]]:
        """Asks over a connection that is free; over a new one where the server has closed those meanwhile."""
        while self._idle:
            kept = self._idle.pop()
            self._ask(kept[1], path)
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                return kept, await self._head(kept[0])
        new = await asyncio.open_connection(self.host, self.port)
        self._ask(new[1], path)
        return new, await self._head(new[0])

    def _ask(self, writer: asyncio.StreamWriter, path: str) -> None:
        head = f"GET /{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAccept-Encoding: gzip\r\n\r\n"
        writer.write(head.encode())

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def close(self) -> None:
        """Ends all connections."""
        for _, writer in self._idle:
            writer.close()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        found += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return bytes(found)


# all visitors get the same: what one has unpacked and read, the others needn't, so that the server is measured
_unpacked = functools.lru_cache(maxsize=500)(gzip.decompress)


@functools.lru_cache(maxsize=100)
def _read_page(page: bytes) -> tuple[Any, tuple[str, ...], str, frozenset[str], frozenset[str]]:
    """The manifest, kinds of components, the address of the theme, what is asked for first, and what isn't."""
    text = page.decode()
    found = _FIRST.search(text)
    if found is None:
        raise ValueError("The page has no pictures to begin with.")
    config = json.JSONDecoder().raw_decode(text, text.index(_CONFIG) + len(_CONFIG))[0]
    kinds = tuple(sorted({one["type"] for one in config["components"]}))
    off = frozenset(f"assets/{one}" for one in _SWITCHED_OFF.findall(text))
    first = frozenset(one or other for one, other in _NAMED.findall(text)) - off
    return json.loads(found[1])["manifest"], kinds, f"theme.css?v={config.get('theme_hash', '')}", first, off


@functools.lru_cache(maxsize=1000)
def _named(script: bytes, kinds: tuple[str, ...]) -> frozenset[str]:
    return frozenset(f"assets/{one}" for one in named(script.decode("utf-8", "replace"), kinds))


class Opening:
    """Asks for the scripts of a page, wave after wave."""

    def __init__(self, browser: Browser, page: bytes) -> None:
        self.browser = browser
        _, self.kinds, self.theme, self.first, self.asked = _read_page(page)

    async def scripts(self) -> None:
        """Everything that the page's HTML names, and what that names, and so on."""
        wave, asked = self.first | {"favicon.ico", self.theme}, self.asked
        while wave:
            asked |= wave
            bodies = await asyncio.gather(*map(self.browser.get, sorted(wave)))
            wave = frozenset().union(*(_named(body, self.kinds) for body in bodies)) - asked


async def visit(address: str, moves: int, pause: float = _PAUSE) -> Visit:
    """One visitor, from opening the page to leaving it."""
    browser = Browser(address)
    began = time.perf_counter()
    page = await browser.get("")
    manifest = _read_page(page)[0]
    opening = asyncio.create_task(Opening(browser, page).scripts())
    kept: set[str] = set()
    place = len(manifest["steps"]) - 1
    await _pictures(browser, manifest, place, kept)
    browser.visit.first = time.perf_counter() - began
    await opening
    stream = await browser.keep_open(f"gradio_api/heartbeat/{id(browser):x}")
    browser.visit.opened = time.perf_counter() - began
    browser.visit.opening_requests, browser.visit.opening_bytes = browser.visit.requests, browser.visit.bytes
    looked = time.perf_counter()
    for number in range(moves):
        ahead = [place - 1, place + 1]
        await asyncio.gather(asyncio.sleep(pause), *(_pictures(browser, manifest, one, kept) for one in ahead))
        # back and forth, and now and then far away, where nothing was fetched ahead
        place = (place - (37 if number % 5 == 4 else 1)) % len(manifest["steps"])
        moved = time.perf_counter()
        await _pictures(browser, manifest, place, kept)
        browser.visit.moves.append(time.perf_counter() - moved)
        if time.perf_counter() - looked > _LOOKS_EVERY:
            looked = time.perf_counter()
            await browser.get("state")
    stream.close()
    browser.close()
    return browser.visit


async def _pictures(browser: Browser, manifest: Any, place: int, kept: set[str]) -> None:
    if not 0 <= place < len(manifest["steps"]):
        return
    wanted = {f"pictures/{row['key']}/{row['files'][place]}" for row in manifest["rows"] if row["files"][place]}
    real = manifest["real"]
    wanted |= {f"pictures/{real['key']}/{real['file']}"} if real else set()
    new = wanted - kept
    kept |= new
    await asyncio.gather(*map(browser.get, new))


async def visits(address: str, visitors: int, moves: int, pause: float = _PAUSE) -> list[Visit]:
    """Many at once, all of whom come at the same moment."""
    return list(await asyncio.gather(*(visit(address, moves, pause) for _ in range(visitors))))
