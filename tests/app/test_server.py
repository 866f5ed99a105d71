"""What the server answers to requests that no page of ours would make."""

import json
import urllib.error
import urllib.request

import pytest

from tests.app.browser import serving
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


def test_there_is_no_public_api(address):
    info = json.loads(get(f"{address}/gradio_api/info")[2])
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}


def upload(address, name, data):
    edge = "edgeofparts"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + data + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_file_above_20_megabytes_is_not_taken(address):
    assert upload(address, "small.png", b"x" * 1000)
    with pytest.raises(urllib.error.HTTPError) as caught:
        upload(address, "large.png", b"x" * 21_000_000)
    assert caught.value.code == 413
