"""What is answered from memory, before Gradio is asked."""

import asyncio
import gzip
from typing import Any

import pytest

from app.limits import TooSlowError
from app.quick import Answer, Quick, Scripts, packed, takes


def asked(app, path, method="GET", **headers):
    """Status, headers and body of a plain ASGI app's answer."""
    sent: list[Any] = []

    async def send(message):
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(
        app({"type": "http", "method": method, "path": path, "query_string": b"", "headers": named}, None, send)
    )
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent)


class Gradio:
    """Its scripts, each of 100 bytes, and how often each was asked for."""

    def __init__(self):
        self.asked: list[str] = []

    async def __call__(self, scope, receive, send):
        self.asked.append(scope["path"])
        await asyncio.sleep(0)  # others ask meanwhile
        status = 404 if "none" in scope["path"] else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/css")]})
        await send({"type": "http.response.body", "body": b"x" * 100})


class Visits:
    """Answers that fail."""

    def state(self):
        raise TooSlowError("The list of runs takes longer")

    def packed(self, _):
        raise TooSlowError("Compare waits")

    def picture(self, key, mark, file):
        if key == "gone":
            raise FileNotFoundError("/secret/place")
        return b"png", mark == "now"


async def no_page(*_):
    raise AssertionError


def give(answer):
    async def app(scope, _, send):
        await answer.give(scope, send)

    return app


@pytest.mark.parametrize(
    ("said", "coding", "whether"),
    [
        ("gzip, br", b"br", True),
        ("GZIP;q=0.5", b"gzip", True),
        ("br;q=0, gzip", b"br", False),
        ("br ; q = 0.000", b"br", False),
        ("identity", b"gzip", False),
        ("brotli", b"br", False),
        ("", b"gzip", False),
    ],
)
def test_a_coding_is_taken_where_it_is_named_and_not_refused(said, coding, whether):
    assert takes({"headers": [(b"accept-encoding", said.encode())]}, coding) is whether
    assert takes({"headers": []}, coding) is False


def test_who_does_not_take_gzip_gets_plain_bytes_and_who_asks_for_the_head_gets_no_body():
    app = give(packed(gzip.compress(b"words"), b"text/plain"))
    status, headers, body = asked(app, "/", accept_encoding="gzip")
    assert status == 200 and headers["content-encoding"] == "gzip" and gzip.decompress(body) == b"words"
    for said in ({}, {"accept_encoding": "gzip;q=0"}):
        _, plain, body = asked(app, "/", **said)
        assert "content-encoding" not in plain and body == b"words" and plain["content-length"] == "5"
        assert plain["vary"] == headers["vary"] == "accept-encoding"
    _, head, body = asked(app, "/", "HEAD", accept_encoding="gzip")
    assert head == headers and body == b""
    assert asked(give(Answer(404, [], b"no")), "/", "HEAD")[0] == 404


def test_what_many_ask_for_at_once_counts_once_and_other_paths_are_not_kept():
    gradio = Gradio()
    quick = Quick(gradio, Visits(), no_page)
    quick.scripts = Scripts(most=250)

    async def many(path):
        async def send(_):
            pass

        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        await asyncio.gather(*(quick(dict(scope), None, send) for _ in range(20)))

    asyncio.run(many("/assets/index-a.js"))
    assert quick.scripts.bytes == 100 and asked(quick, "/assets/index-a.js")[2] == b"x" * 100
    asyncio.run(many("/assets/index-b.js"))
    before = len(gradio.asked)
    for path in ("/assets/./index-a.js", "/assets//index-a.js", "/static/img/logo.svg", "/assets/../index.html"):
        assert "immutable" not in str(asked(quick, path)), path
    assert len(gradio.asked) == before + 4 and quick.scripts.bytes == 200
    for _ in range(2):  # no more fits
        assert "immutable" in asked(quick, "/assets/index-c.js")[1]["cache-control"]
        assert asked(quick, "/assets/none.js")[:2][1]["cache-control"] == "no-cache"
    assert len(gradio.asked) == before + 8 and quick.scripts.bytes == 200


def test_what_takes_too_long_and_what_is_gone_are_told_in_words():
    quick = Quick(Gradio(), Visits(), no_page)
    for path, words in (("/state", b"The list of runs takes longer"), ("/compare.json", b"Compare waits")):
        status, headers, body = asked(quick, path)
        assert (status, body) == (503, words) and headers["cache-control"] == "no-cache"
    for path in ("/pictures/gone/now/a.png", "/pictures/a.png", "/pictures/"):
        status, headers, body = asked(quick, path)
        assert status == 404 and b"secret" not in body and headers["cache-control"] == "no-cache"
    assert "immutable" in asked(quick, "/pictures/a/now/a.png")[1]["cache-control"]
    assert asked(quick, "/pictures/a/before/a.png")[1]["cache-control"] == "no-cache"
