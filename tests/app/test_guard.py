"""Whose requests are answered, and how much may be uploaded."""

import asyncio

import pytest

from app.guard import Guard, Uploads


@pytest.fixture
def guard():
    async def nothing(*_):
        pass

    return Guard(nothing, ["studio.lan"], "secret", None, Uploads())


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7860", "127.0.0.1:7860", "[::1]:7860", "192.168.1.4:80", "studio.lan:7860"]
)
def test_a_page_may_be_called_by_its_own_names(guard, host):
    assert guard.judge("GET", {"host": host}) is None


@pytest.mark.parametrize(
    "host", ["", "rebind.test", "localhost.rebind.test", "127.0.0.1.rebind.test:7860", "[::1", "a:b:c"]
)
def test_other_names_are_refused_and_told_how_to_allow_them(guard, host):
    refusal = guard.judge("GET", {"host": host})
    assert refusal.status == 403 and "--allow_host" in refusal.text


OWN = {"host": "localhost:7860", "x-reslora-token": "secret"}


@pytest.mark.parametrize(
    ("method", "headers", "answered"),
    [
        ("POST", {"origin": "http://localhost:7860"}, True),
        ("POST", {"origin": "http://localhost:7860", "sec-fetch-site": "same-origin"}, True),
        ("POST", {}, True),  # no browser; whoever has the token has read the page
        ("POST", {"x-reslora-token": "other"}, False),
        ("POST", {"origin": "http://localhost:7861"}, False),
        ("POST", {"origin": "http://127.0.0.1:7860"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://[broken"}, False),
        ("POST", {"sec-fetch-site": "same-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),  # a link
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),  # a form
        ("GET", {"origin": "http://localhost:7861"}, False),
        ("HEAD", {"origin": "http://localhost:7860"}, True),
    ],
)
def test_only_our_own_pages_are_answered(guard, method, headers, answered):
    assert (guard.judge(method, {**OWN, **headers}) is None) == answered


def test_a_proxy_may_take_the_encryption_off(guard):
    headers = {**OWN, "host": "studio.lan", "origin": "https://studio.lan"}
    assert guard.judge("POST", headers) is None
    assert guard.judge("POST", {**headers, "origin": "https://studio.lan:443"}) is None


def through(guard, scope, answer=b"[]"):
    """Status of a request's answer, and whether it reached the page."""
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def send(message):
        sent.append(message)

    guard.app = app
    asyncio.run(guard(scope, None, send))
    return sent[0].get("status", sent[0]["type"]), bool(reached)


def request(path="/", method="POST", kind="http", **headers):
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in {**OWN, **headers}.items()]
    return {"type": kind, "path": path, "method": method, "headers": named}


def test_a_refused_request_never_reaches_the_page(guard):
    assert through(guard, request()) == (200, True)
    assert through(guard, request(origin="http://foreign.test")) == (403, False)
    assert through(guard, request(kind="websocket", origin="http://foreign.test")) == ("websocket.close", False)


def test_uploads_together_have_a_limit_and_old_ones_make_room(guard, tmp_path):
    now = Uploads(most=100)
    guard.uploads = now
    for number, status in enumerate((200, 200, 413)):
        file = tmp_path / f"{number}.png"
        file.write_bytes(b"x" * 40)
        found = through(guard, request("/gradio_api/upload", content_length="40"), f'["{file}"]'.encode())
        assert found == (status, status == 200)
    now.kept = -1.0  # as if an hour had gone by
    assert through(guard, request("/gradio_api/upload", content_length="90")) == (200, True)
    assert [file.name for file in tmp_path.iterdir()] == ["2.png"]


@pytest.mark.parametrize("length", ["", "-1", "many", "\u0663"])
def test_an_upload_says_its_length(guard, length):
    scope = request("/gradio_api/upload")
    scope["headers"].append((b"content-length", length.encode("utf-8")))
    assert through(guard, scope) == (411, False)


def test_what_has_failed_does_not_count_as_uploaded(guard):
    guard.uploads = Uploads(most=100)

    async def broken(scope, receive, send):
        raise OSError("no space left")

    for _ in range(3):
        guard.app = broken
        with pytest.raises(OSError, match="no space"):
            asyncio.run(guard(request("/gradio_api/upload", content_length="90"), None, None))
