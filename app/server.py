"""Starts the page: loopback unless told otherwise, no public API, nothing loaded from elsewhere, no folder served."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .library import Library
from .uploads import MOST_BYTES_EACH

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
"""The browser then refuses whatever is not from this server, whoever asks for it. Gradio's own code needs eval."""


def serve(
    folders: Sequence[Path],
    trainings: Path,
    allowed: Sequence[Path] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    block: bool = True,
) -> Any:
    """Opens the page; gives Gradio's app, its address and the server's.

    Args:
        folders: run folders, or folders of them.
        trainings: where trainings of the page put their runs.
        allowed: folders that run.json may name for its base model and data.
        port: the first free one from 7860 where `None`.
        block: wait until it is closed.
    """
    cache = Path(tempfile.mkdtemp(prefix="reslora-page-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(cache)  # read at import, and later
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from .wiring.page import build
    from .wiring.shared import Page
    from .wiring.style import CSS, HEAD, THEME

    page = Page(
        Library(folders, trainings),
        cache / "pictures",
        trainings.resolve(),
        [one.resolve() for one in allowed],
        local=is_loopback(host),
    )
    blocks = build(page)
    opened = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=THEME,
        css=CSS,
        head=HEAD,
        footer_links=[],
        max_file_size=MOST_BYTES_EACH,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
    )
    _add_policy(opened[0])
    print(f"The page is at {opened[1]} (Ctrl-C closes it; trainings go on).", flush=True)
    if block:
        blocks.block_thread()
    return opened[0], opened[1], blocks


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _add_policy(app: Any) -> None:
    """Adds the header to every answer; as plain ASGI, so that streams stay streams."""
    inner = app.middleware_stack or app.build_middleware_stack()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await inner(scope, receive, with_header if scope["type"] == "http" else send)

    app.middleware_stack = outer
