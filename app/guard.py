"""Who may speak to the page: its own pages in this machine's browser, and nobody who only looks like them.

A browser lets every page send requests to a local server, and a name that its owner points at 127.0.0.1 (DNS
rebinding) makes a foreign page look like ours. So a request is answered if it names a host of ours, comes from a page
of ours, and, where it changes something, carries the token that is written into our pages alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TOKEN_HEADER = "x-reslora-token"
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_OWN_FETCHES = frozenset({"", "same-origin", "none"})
"""What browsers say of requests of our own page, and of addresses that a person typed; old ones say nothing."""
MOST_UPLOADED = 1_000_000_000
"""Bytes of all uploads together that wait for a training."""
_KEPT = 3600.0
"""Seconds after which an upload that still waits goes when room is needed."""
_WRONG_PASSWORD_COSTS = 1.0
"""Seconds until a wrong password is answered."""


@dataclass(frozen=True)
class Refusal:
    """An answer that ends a request."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Uploads:
    """Files that browsers have sent, and how much they may have together."""

    most: int = MOST_UPLOADED
    kept: float = _KEPT
    _files: dict[Path, float] = field(default_factory=dict)
    _coming: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, size: int) -> bool:
        """Whether so many more bytes may come; they count until `arrived` is called. Old ones make room."""
        with self._lock:
            if self._used() + size > self.most:
                self._drop_old()
            if self._used() + size > self.most:
                return False
            self._coming += size
            return True

    def arrived(self, size: int, files: Collection[str]) -> None:
        """Ends what `admit` began, with the files that came of it."""
        with self._lock:
            self._coming -= size
            self._files.update(dict.fromkeys(map(Path, files), time.monotonic()))

    def _used(self) -> int:
        self._files = {file: when for file, when in self._files.items() if file.is_file()}
        return self._coming + sum(_size(file) for file in self._files)

    def _drop_old(self) -> None:
        for file, when in self._files.items():
            if time.monotonic() - when > self.kept:
                file.unlink(missing_ok=True)


class Guard:
    """Refuses foreign hosts, foreign pages, requests without the token, wrong passwords, and too many uploads.

    As plain ASGI, so that streams stay streams.

    Args:
        hosts: names beside localhost and numeric addresses that the page may be called by.
        token: what our pages send with every request that changes something.
        password: asked of every request, with any user's name (HTTP Basic); none is asked where `None`.
        uploads: what has been sent so far.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        hosts: Collection[str],
        token: str,
        password: str | None,
        uploads: Uploads,
    ) -> None:
        self.app, self.token, self.password, self.uploads = app, token, password, uploads
        self.hosts = {host.lower().rstrip(".") for host in hosts} | {"localhost"}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        method = scope.get("method", "POST")  # a websocket can do what a POST can
        refusal = self.judge(method, headers)
        if refusal is None and scope["path"].endswith(("/upload", "/upload/")) and method == "POST":
            await self._upload(scope, receive, send, headers.get("content-length", ""))
        elif refusal is None:
            await self.app(scope, receive, send)
        else:
            if refusal.status == 401 and "authorization" in headers:
                await asyncio.sleep(_WRONG_PASSWORD_COSTS)
            await _answer(scope, send, refusal)

    def judge(self, method: str, headers: dict[str, str]) -> Refusal | None:
        """Why a request is refused; `None` where it isn't."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return Refusal(
                403,
                f"This page is not called {host!r:.80}. Open it by the address that its server printed, or start it "
                "with --allow_host NAME.",
            )
        foreign = origin is not None and not _same_place(origin, host)
        if headers.get("sec-fetch-site", "") not in _OWN_FETCHES:
            foreign = foreign or method not in ("GET", "HEAD") or headers.get("sec-fetch-mode") != "navigate"
        if foreign:
            return Refusal(403, f"A request of another page ({origin or 'of another site'!s:.80}) is not answered.")
        if self.password is not None and not self._knows_password(headers.get("authorization", "")):
            return Refusal(
                401, "This page has a password (any user name).", ((b"www-authenticate", b'Basic realm="reslora-sd"'),)
            )
        if method in _CHANGING and not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self.token.encode()):
            return Refusal(403, "The request lacks the page's token. Reload the page.")
        return None

    def _is_ours(self, host: str) -> bool:
        """A numeric address can't be rebound: whoever names it speaks to that address."""
        name = _name(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True

    def _knows_password(self, given: str) -> bool:
        kind, _, code = given.partition(" ")
        try:
            _, _, password = base64.b64decode(code, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and hmac.compare_digest(password, (self.password or "").encode())

    async def _upload(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, length: str) -> None:
        """Passes an upload on if there is room, and notes the files that the answer names."""
        if not length.isascii() or not length.isdigit():
            await _answer(scope, send, Refusal(411, "An upload must say its length."))
            return
        size = int(length)
        if not self.uploads.admit(size):
            limit = f"{self.uploads.most / 1e6:.0f} MB"
            await _answer(scope, send, Refusal(413, f"Uploads that wait for a training may have {limit} together."))
            return
        status, answer = 0, bytearray()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self.uploads.arrived(size, _named(bytes(answer)) if status == 200 else [])


_SCRIPT = """
<script>
(() => {
  const name = NAME, token = TOKEN, asked = window.fetch;
  const ours = (address) => new URL(address, location.href).origin === location.origin;
  window.fetch = (input, init) => {
    const request = input instanceof Request ? input : null;
    const method = (init?.method ?? request?.method ?? "GET").toUpperCase();
    if (method === "GET" || method === "HEAD" || !ours(request ? request.url : input)) return asked(input, init);
    const headers = new Headers(init?.headers ?? request?.headers);
    headers.set(name, token);
    return asked(input, { ...init, headers });
  };
  const { open, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, address, ...rest) {
    this.isOurs = ours(address);
    return open.call(this, method, address, ...rest);
  };
  XMLHttpRequest.prototype.send = function (body) {
    if (this.isOurs) this.setRequestHeader(name, token);
    return send.call(this, body);
  };
})();
</script>
"""


def token_script(token: str) -> str:
    """For the head of our pages: their requests to this server carry the token."""
    return _SCRIPT.replace("NAME", json.dumps(TOKEN_HEADER)).replace("TOKEN", json.dumps(token))


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0] if "]" in host else ""
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _same_place(origin: str, host: str) -> bool:
    """Whether an Origin header names the server that a Host header names; a proxy may have taken the TLS off."""
    try:
        parts = urlsplit(origin)
        ports = {"http": "80", "https": "443"}
        default = ports[parts.scheme]
        return parts.netloc.lower().removesuffix(f":{default}") == host.lower().removesuffix(f":{default}")
    except (KeyError, ValueError):
        return False


def _size(file: Path) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return 0


def _named(answer: bytes) -> list[str]:
    """Gradio answers an upload with the list of the files that it wrote."""
    try:
        found = json.loads(answer)
    except ValueError:
        return []
    return [file for file in found if isinstance(file, str)] if isinstance(found, list) else []


async def _answer(scope: MutableMapping[str, Any], send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.text.encode()})
