"""What the server answers to requests that no page of ours would make."""

import asyncio
import base64
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import nullcontext
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from app import guard
from app.server import QuietEnds, SecurityHeaders, listen, serve
from tests.app.browser import address_of, serving
from tests.scripts import ROOT


@pytest.fixture(scope="module")
def address(real_runs, tmp_path_factory):
    with serving(list(real_runs.values()), tmp_path_factory.mktemp("server") / "here") as address:
        yield address


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status, dict(answer.headers), answer.read()


def refused(url):
    try:
        status, _, body = get(url)
    except urllib.error.HTTPError as error:
        return error.code in (403, 404)
    return status != 200 or not body


def test_it_listens_on_loopback(address):
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rsplit(":", 1)[1])
    with open("/proc/net/tcp") as table:
        listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert [one.split(":")[0] for one in listening if int(one.split(":")[1], 16) == port] == ["0100007F"]


def test_no_file_is_served_but_what_the_page_made_itself(address, real_runs):
    run = real_runs["lora"]
    paths = [
        "/etc/passwd",
        ROOT / "README.md",
        ROOT / "app" / "__init__.py",
        run / "run.json",
        run / "reslora_adapter.safetensors",
        run / "validation" / "index.jsonl",
        f"{run}/../../../etc/passwd",
    ]
    for path in paths:
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/", "theme.css/../"):
            assert refused(f"{address}/{route}{path}"), (route, path)
    assert refused(f"{address}/gradio_api/file=http://127.0.0.1:1/")


def test_every_answer_forbids_what_is_from_elsewhere(address):
    for path in ("/", "/config", "/assets/none.js"):
        try:
            headers = get(address + path)[1]
        except urllib.error.HTTPError as error:
            headers = dict(error.headers)
        assert "default-src 'self'" in headers["content-security-policy"]


def test_a_browser_asks_for_pictures_and_scripts_once_and_for_the_page_each_time(address):
    page = page_of(address).decode()
    sent = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[0])
    row = sent["manifest"]["rows"][0]
    picture = f"{address}/pictures/{row['key']}/{row['files'][-1]}"
    script = address + re.findall(r"/assets/index-[\w-]+\.js", page)[0]
    for url, kind in ((picture, "image/png"), (script, "javascript")):
        for _ in range(2):
            _, headers, body = get(url)
            assert (
                headers["cache-control"] == "private, max-age=31536000, immutable" and kind in headers["content-type"]
            )
            assert "default-src 'self'" in headers["content-security-policy"] and len(body) > 100
    style = re.findall(r"/assets/index-[\w-]+\.css", page)[0]
    link = f'<link rel="stylesheet" href=".{style}" disabled>'.encode()
    assert link in page_of(address) and page_of(address).count(b"disabled>") > 20  # the page has them itself
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(picture.replace(row["key"], "0" * 24))
    assert caught.value.code == 404 and b"no such picture" in caught.value.read()
    assert get(address)[1]["cache-control"] == "no-cache"
    short = urllib.request.Request(f"{address}/compare.json?{sent['address']}", headers={"Accept-Encoding": "gzip"})
    again = json.loads(gzip.decompress(get(short)[2]))
    assert again == sent["manifest"] and get(f"{address}/state")[2].decode() == sent["state"]


def test_there_is_no_public_api(address):
    info = json.loads(get(f"{address}/gradio_api/info")[2])
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}


def page_of(address):
    return get(address)[2]


def token_of(address):
    found = re.search(rb"x-reslora-token\W+token\W+([\w-]+)", page_of(address))
    assert found is not None
    return found.group(1).decode()


def upload(address, name, data, **headers):
    edge = "edgeofparts"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + data + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}", **headers}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_file_above_100_megabytes_is_not_taken(address):
    token = {"X-Reslora-Token": token_of(address)}
    assert upload(address, "small.png", b"x" * 1000, **token)
    with pytest.raises(urllib.error.HTTPError) as caught:
        upload(address, "large.png", b"x" * 101_000_000, **token)
    assert caught.value.code == 413


def test_another_page_or_a_rebound_name_gets_nothing(address):
    token = {"X-Reslora-Token": token_of(address)}
    for headers in (
        {},  # no token: a form of another page can't send one
        {**token, "Origin": "http://localhost:9999"},  # another program's page on this machine
        {**token, "Origin": "null"},
        {**token, "Host": "rebind.test"},
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            upload(address, "small.png", b"x", **headers)
        assert caught.value.code == 403, headers
    for headers in ({"Host": "rebind.test:7860"}, {"Origin": "http://rebind.test"}, {"Sec-Fetch-Site": "same-site"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(urllib.request.Request(address, headers=headers))
        assert caught.value.code == 403, headers


def test_with_a_password_nothing_is_shown_without_it(made_up, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(guard, "_WRONG_PASSWORD_COSTS", 0.0)
    page = serve([made_up], tmp_path / "here", block=False, password="open sesame")
    right, wrong = (base64.b64encode(words).decode() for words in (b"me:open sesame", b"me:open"))
    try:
        for headers in ({}, {"Authorization": f"Basic {wrong}"}, {"Authorization": "Basic ?"}):
            for path in ("", "config", "gradio_api/info", "state", "compare.json", "pictures/a/b/c.png", "assets/a.js"):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    get(urllib.request.Request(page.address + path, headers=headers))
                assert caught.value.code == 401
        known = urllib.request.Request(page.address, headers={"Authorization": f"Basic {right}"})
        assert b"step by step" in page_of(known)
    finally:
        page.close()
    assert "Warning" not in capsys.readouterr().out


def test_a_page_that_others_reach_warns_without_a_password(made_up, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    serve([made_up], tmp_path / "here", host="0.0.0.0", block=False).close()
    assert "Warning: whoever reaches 0.0.0.0 can train and draw here. Set a password" in capsys.readouterr().out


def test_security_headers_leave_a_stream_a_stream():
    sent: list[dict[str, Any]] = []

    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            assert sent[-1]["body"] == b"%d" % number  # handed on at once, and not kept until the end

    async def send(message):
        sent.append(message)

    asyncio.run(SecurityHeaders(stream)({"type": "http", "path": "/"}, None, send))
    names = [name for name, _ in sent[0]["headers"]]
    assert names == [b"x", b"content-security-policy", b"x-content-type-options"] and len(sent) == 4


def test_an_error_is_answered_in_words_with_the_headers_of_all_answers_and_logged(caplog):
    sent: list[dict[str, Any]] = []

    async def fails(scope, receive, send):
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("/secret/place")

    async def send(message):
        sent.append(message)

    asyncio.run(SecurityHeaders(fails)({"type": "http", "path": "/"}, None, send))
    names = [name for name, _ in sent[0]["headers"]]
    assert sent[0]["status"] == 500 and b"content-security-policy" in names and b"x-content-type-options" in names
    assert b"secret" not in sent[1]["body"] and "/secret/place" in caplog.text
    for kind, path in (("http", "/begun"), ("websocket", "/")):
        with pytest.raises(KeyError):
            asyncio.run(SecurityHeaders(fails)({"type": kind, "path": path}, None, send))


@pytest.mark.parametrize(("status", "begun", "told"), [(404, True, False), (404, False, True), (500, True, True)])
def test_the_stream_of_a_browser_that_has_left_ends_without_a_traceback(status, begun, told):
    """Gradio raises in the middle of its answer, which Starlette turns into a RuntimeError."""

    async def stream(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("response already started") from HTTPException(status)

    async def send(message):
        pass

    with pytest.raises(RuntimeError) if told else nullcontext():
        asyncio.run(QuietEnds(stream)({"type": "http", "path": "/"}, None, send))


def test_the_first_free_port_is_taken_and_a_port_that_is_taken_is_told():
    with listen("127.0.0.1") as first, listen("127.0.0.1") as second:
        port = first.getsockname()[1]
        assert 7860 <= port < second.getsockname()[1] < 7960
        with pytest.raises(OSError, match=rf"can't listen on 127\.0\.0\.1, port {port}: .*--port"):
            listen("127.0.0.1", port)
    with pytest.raises(OSError, match="--host"):
        listen("203.0.113.7")


def test_a_page_of_this_process_can_be_closed(made_up, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    page = serve([made_up], tmp_path / "here", block=False)
    assert b"LoRA and ResLoRA, step by step" in page_of(page.address)
    page.close()
    assert not page.thread.is_alive()
    with pytest.raises(urllib.error.URLError):
        get(page.address)


def test_ctrl_c_closes_the_page_without_an_error(made_up, tmp_path):
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "app", str(made_up), "--trainings", str(tmp_path / "here")]
    hears = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 (jobs in the background don't)
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, preexec_fn=hears)
    address = address_of(server, log)
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))):  # a browser that stays
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
    assert len(log.read_text().splitlines()) == 1, log.read_text()
