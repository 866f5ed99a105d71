"""The page at `/`, made of Gradio's own."""

import asyncio
import gzip
import json
import logging
import re

import pytest

from app.limits import TooSlowError
from app.shell import Shell

CONFIG = {"components": [{"id": 1, "props": {"elem_id": "runs", "value": None}, "api_info": {"a": 1}}]}
GRADIO = (
    "<!doctype html><html><head><script>window.gradio_config = "
    + json.dumps(CONFIG)
    + ';</script><script type="module" crossorigin src="./assets/index-a.js"></script>'
    '<link rel="stylesheet" crossorigin href="./assets/index-a.css"></head><body class="x"><gradio-app></gradio-app>'
    "</body></html>"
)


def parts(value):
    return {"runs": {"value": value}}, "<script>ours</script>", f"<div id='early'>{value}</div>"


class Visitor:
    """Asks a shell for its page, of whatever Gradio gives at that moment."""

    def __init__(self, shell):
        self.shell, self.gradio, self.times = shell, GRADIO, 0

    async def of_gradio(self):
        self.times += 1
        await asyncio.sleep(0)
        return self.gradio.encode()

    async def once(self, query, host):
        scope = {"scheme": "http", "query_string": query, "headers": [(b"host", host)]}
        return await self.shell(scope, self.of_gradio)

    def get(self, query=b"", host=b"here"):
        return gzip.decompress(asyncio.run(self.once(query, host)).body).decode()


def test_a_page_has_its_values_its_styles_and_our_start_and_is_made_once():
    made = []

    def make(query):
        made.append(query)
        return parts(f"{query}!")

    visitor = Visitor(Shell(lambda query: (query, lambda: make(query)), {}, parts))
    page = visitor.get(b"a")
    assert visitor.get(b"a") == page and made == ["a"] and visitor.times == 1
    config = json.loads(re.findall(r"gradio_config = (.*?);</script>", page)[0])
    assert config["components"] == [{"id": 1, "props": {"elem_id": "runs", "value": "a!"}}]
    assert page.index("<script>ours") < page.index("<script>window.") and "<body class=\"x\"><div id='early'>a!" in page
    assert 'rel="modulepreload"' in page and 'type="module"' not in page
    styled = Visitor(Shell(lambda _: ("a", lambda: parts("a")), {"/assets/index-a.css": ".a {}"}, parts)).get()
    assert "<style>.a {}</style>" in styled and 'crossorigin href="./assets/index-a.css"' not in styled


def test_a_page_that_took_too_long_says_so_and_the_next_visitor_gets_the_pictures():
    late = [True]

    def make():
        if late:
            raise TooSlowError(f"The page is late {late.pop()}")
        return parts("there")

    visitor = Visitor(Shell(lambda _: ("same", make), {}, parts))
    assert "<div id='early'>The page is late True</div>" in visitor.get()
    assert "<div id='early'>there</div>" in visitor.get()

    def ask(_):
        raise TooSlowError("The list of runs is late")

    assert "The list of runs is late" in Visitor(Shell(ask, {}, parts)).get()


@pytest.mark.parametrize(
    "changed",
    [
        GRADIO.replace("gradio_config", "gradio_settings"),
        GRADIO.replace('"components"', '"parts"'),
        GRADIO.replace('"props"', '"properties"'),
        GRADIO.replace("</head>", ""),
        GRADIO.replace("<body", "<main").replace("</head>", ""),
        GRADIO.replace(json.dumps(CONFIG), "null"),
    ],
)
def test_where_gradios_page_is_another_its_own_is_given_with_our_script_and_one_warning(changed, caplog):
    visitor = Visitor(Shell(lambda _: ("same", lambda: parts("there")), {}, parts))
    visitor.gradio = changed
    with caplog.at_level(logging.WARNING):
        pages = [visitor.get() for _ in range(2)]
    for page in pages:
        assert "opens slowly: it doesn't know this version of Gradio" in page and "<script>ours</script>" in page
        assert 'type="module"' in page and "<gradio-app>" in page  # Gradio starts by itself
    assert [one.getMessage() for one in caplog.records] == [
        "The page opens more slowly than it could: Gradio's isn't as expected."
    ]


def test_more_names_of_the_server_than_are_kept_are_all_answered():
    visitor = Visitor(Shell(lambda _: ("same", lambda: parts("there")), {}, parts))

    async def all_at_once():
        return await asyncio.gather(*(visitor.once(b"", b"host%d" % number) for number in range(60)))

    assert all(b"there" in gzip.decompress(one.body) for one in asyncio.run(all_at_once()))
    assert len(visitor.shell._templates) == 20


def test_many_who_ask_at_once_get_one_page():
    made = []

    def make():
        made.append(1)
        return parts("there")

    visitor = Visitor(Shell(lambda _: ("same", make), {}, parts))

    async def all_at_once():
        return await asyncio.gather(*(visitor.once(b"", b"here") for _ in range(30)))

    assert len({one.body for one in asyncio.run(all_at_once())}) == 1 and made == [1]
