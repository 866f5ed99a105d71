"""Starts the page: loopback unless told otherwise, no public API, nothing loaded from elsewhere, no folder served."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from .guard import Guard, Uploads, token_script
from .library import Library

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_log = logging.getLogger("uvicorn.error")
FIRST_PORT, TRIED_PORTS = 7860, 100
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
"""The browser then refuses whatever is not from this server, whoever asks for it. Gradio's own code needs eval."""
_HEADERS = [(b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff")]


class SecurityHeaders:
    """Adds the headers to every answer, also to that of an error; as plain ASGI, so that streams stay streams."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = scope["type"] != "http"

        async def send_with_headers(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = [*message.get("headers", []), *_HEADERS]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
        except Exception:
            if begun:
                raise
            _log.exception("The page couldn't answer %s.", scope["path"])
            kind = [(b"content-type", b"text/plain; charset=utf-8")]
            await send_with_headers({"type": "http.response.start", "status": 500, "headers": kind})
            said = b"The server met an error. Its log says which; reload the page to try again."
            await send({"type": "http.response.body", "body": said})


class QuietEnds:
    """Ends the stream of a browser that has left without a traceback, which Gradio's own way to end it prints."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def noted(message: Any) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except RuntimeError as error:
            gone = error.__cause__
            if not (begun and isinstance(gone, HTTPException) and gone.status_code == 404):
                raise


@dataclass(frozen=True)
class RunningPage:
    """A page that is open in a thread of this process."""

    address: str
    server: uvicorn.Server
    thread: threading.Thread

    def wait(self) -> None:
        """Returns when the page is closed, by Ctrl-C at the latest."""
        try:
            while self.thread.is_alive():
                self.thread.join(timeout=1)  # without a limit, Windows hears no Ctrl-C
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Ends the server; browsers that still listen are cut off."""
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(timeout=5)


def serve(
    folders: Sequence[Path],
    trainings: Path,
    allowed: Sequence[Path] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    block: bool = True,
    names: Sequence[str] = (),
    password: str | None = None,
    loras: Path | None = None,
) -> RunningPage:
    """Opens the page.

    Args:
        folders: run folders, or folders of them.
        trainings: where trainings of the page put their runs.
        allowed: folders that run.json may name for its base model and data.
        port: the first free one from 7860 where `None`.
        block: wait until it is closed.
        names: by which browsers may call the page, beside localhost, numeric addresses and this machine's own name.
        password: asked of everybody; none where `None`.
        loras: a folder of LoRA files made elsewhere, for Try it.

    Raises:
        OSError: the address can't be listened on.
    """
    cache = Path(tempfile.mkdtemp(prefix="reslora-page-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(cache)  # read at import, and later
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    listener = listen(host, port)
    local = is_loopback(host)
    own = [] if local else [socket.gethostname(), f"{socket.gethostname()}.local"]
    app = make_app(folders, trainings, allowed, cache, local, [host, *own, *names], password, loras)
    page = _start(app, listener, host)
    if not local and password is None:
        print(f"Warning: whoever reaches {host} can train and draw here. Set a password with --password.", flush=True)
    print(f"The page is at {page.address} (Ctrl-C closes it; trainings go on).", flush=True)
    if block:
        page.wait()
    return page


def make_app(
    folders: Sequence[Path],
    trainings: Path,
    allowed: Sequence[Path],
    cache: Path,
    local: bool,
    names: Sequence[str] = (),
    password: str | None = None,
    loras: Path | None = None,
) -> FastAPI:
    """The page as a FastAPI app of our own, in which Gradio is mounted.

    Args:
        cache: for the pictures that browsers get; nothing else is served.
        local: only this machine reaches the page.
        names: as in `serve`.
        password: as in `serve`.
        loras: as in `serve`.
    """
    from fastapi import FastAPI

    from .downloads import routes
    from .quick import Quick
    from .tabs.page import mount
    from .tabs.shared import Page

    page = Page(
        Library(folders, trainings),
        cache / "pictures",
        trainings.resolve(),
        [one.resolve() for one in allowed],
        local=local,
        loras=loras.resolve() if loras is not None else None,
    )
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(routes(page.library, cache / "downloads"))
    token = secrets.token_urlsafe(32)
    shell = mount(app, page, token_script(token))
    app.add_middleware(Quick, visits=page.visits, page=shell)
    app.add_middleware(Guard, hosts=names, token=token, password=password, uploads=Uploads())
    app.add_middleware(SecurityHeaders)
    app.add_middleware(QuietEnds)
    return app


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def listen(host: str, port: int | None = None) -> socket.socket:
    """A socket that listens on the port, or on the first free one from 7860.

    Raises:
        OSError: it is taken, or all of them are; or `host` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + TRIED_PORTS)
    for one in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # on Windows it would share a port that another program has
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, one))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            reason = error
    tried = f"port {port}" if port is not None else f"any port from {FIRST_PORT} to {ports[-1]}"
    raise OSError(f"The page can't listen on {host}, {tried}: {reason}. Choose others with --host and --port.")


def _start(app: FastAPI, listener: socket.socket, host: str) -> RunningPage:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise OSError("The page's server ended while it started. Its error is above.")
        time.sleep(0.01)
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return RunningPage(f"http://{name}:{listener.getsockname()[1]}/", server, thread)
