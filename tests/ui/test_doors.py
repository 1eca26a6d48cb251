"""The page as it is served: every route is behind the guard, over real sockets too."""

import itertools
import re
import socket
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi.routing import APIRoute
from gradio_client import Client, handle_file
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from t2local.engine.access import Guard
from t2local.engine.doors import Doors
from t2local.ui.launch import Server
from t2local.ui.page import build_app
from t2local.ui.style import header_html
from tests.engine.test_access import HOME, OWN, ask
from tests.ui.conftest import PHONE, opened
from tests.ui.conftest import ask as say
from tests.ui.fake_engine import FakeEngine

MOST_ROUTES_WE_KNOW = 80
REFUSED = {401, 403, 421}


@pytest.fixture(scope="module")
def served():
    return Server(build_app(FakeEngine()), "127.0.0.1", 7860).config.app


@pytest.fixture(scope="module")
def url():
    url, close = opened(build_app(FakeEngine()))
    yield url
    close()


def routes(application, before: str = ""):
    """Every path, method and kind that an application answers to, of mounted ones too."""
    for route in application.routes:
        if isinstance(route, Mount):
            yield from routes(route.app, before + plain(route.path))
        elif isinstance(route, WebSocketRoute):
            yield before + plain(route.path), "GET", "websocket"
        elif isinstance(route, Route | APIRoute):
            for method in sorted(route.methods):
                yield before + plain(route.path), method, "http"
        else:  # a router that FastAPI looks into later; anything else fails here
            yield from routes(route.original_router, before + route.include_context.prefix)


def plain(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", path)


def test_the_walk_sees_the_routes(served):
    assert isinstance(served, Guard)
    known = set(routes(served.app))
    assert len(known) >= MOST_ROUTES_WE_KNOW
    for expected in (
        ("/", "GET"),
        ("/gradio_api/upload", "POST"),
        ("/gradio_api/queue/data", "GET"),
        ("/gradio_api/queue/join", "POST"),
        ("/gradio_api/heartbeat/x", "GET"),
        ("/gradio_api/file=x", "GET"),
        ("/static/x", "GET"),
        ("/assets/x", "GET"),
    ):
        assert (*expected, "http") in known


def let_in(served, application, headers, refused) -> list[tuple]:
    """The routes that answer otherwise than by refusing, or allow another site to read."""
    found = []
    for path, method, kind in [*routes(application), ("/no/such/route", "GET", "http")]:
        for one in {method, "OPTIONS"}:
            answer = ask(served, path, headers, one, kind)
            allowed = [name for name, _ in answer.headers if name.startswith("access-control")]
            if answer.status not in refused or allowed:
                found.append((path, one, answer.status))
    return found


def test_every_route_asks_for_the_password():
    locked = Doors(password="words")
    served = Server(build_app(FakeEngine(), locked), "127.0.0.1", 7860).config.app
    for headers in ([HOME], [HOME, ("authorization", "Bearer wrong")], [HOME, ("cookie", "a=b")]):
        assert not let_in(served, served.app, headers, {401, 429})


def test_a_route_that_slips_past_is_seen(served):
    """One beside the guard is reported; one of another kind is walked as well."""

    async def leaky(scope, receive, send):
        past = scope["path"] == "/robots.txt"
        await (served.app if past else served)(scope, receive, send)

    found = let_in(leaky, served.app, STRANGERS["host"], REFUSED)
    assert {path for path, _, _ in found} == {"/robots.txt"}
    extra = Starlette(routes=[WebSocketRoute("/live", print), *served.app.routes])
    assert ("/live", "GET", "websocket") in set(routes(extra))
    assert not let_in(served, extra, STRANGERS["host"], REFUSED)


STRANGERS = {
    "host": [("host", "evil.example")],
    "origin": [HOME, ("origin", "http://evil.example")],
    "site": [HOME, ("sec-fetch-site", "cross-site")],
    "no host": [],
}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
def test_every_route_refuses_strangers(served, headers):
    assert not let_in(served, served.app, headers, REFUSED)


def test_the_page_itself_is_let_in(url):
    own = url.rstrip("/")
    with httpx.Client(base_url=url, headers={"origin": own}) as client:
        assert "gradio" in client.get("/").text
        assert client.get("/config").json()["root"] == own
        assert client.get("/favicon.ico").headers["content-type"].startswith("image/svg")
        uploaded = client.post("/gradio_api/upload", files={"files": ("a.txt", b"hello")})
        served = client.get(f"/gradio_api/file={uploaded.json()[0]}")
        assert served.text == "hello"
        for answer in (uploaded, served, client.options("/config")):
            assert not [name for name in answer.headers if name.startswith("access-control")]


RAW = {
    "no host, http 1.0": b"GET / HTTP/1.0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "two own hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "folded host": b"GET / HTTP/1.1\r\nHost: localhost\r\n evil.example\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "foreign host": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "whole address": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "foreign in both": b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "null byte": b"GET / HTTP/1.1\r\nHost: localhost\x00evil\r\n\r\n",
    "high bytes": b"GET / HTTP/1.1\r\nHost: local\xffhost\r\n\r\n",
    "websocket": b"GET / HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", RAW.values(), ids=RAW)
def test_a_crooked_request_is_refused_over_a_socket(url, request_bytes):
    assert status_of(url, request_bytes) in {400, 403, 421}


@pytest.mark.parametrize("host", [b"LOCALHOST", b"localhost.", b"127.0.0.1", b"[::1]:99"])
def test_an_own_name_is_served_over_a_socket(url, host):
    """So the requests above are refused for their host, and not for how they are sent."""
    request = b"GET /robots.txt HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n" % host
    assert status_of(url, request) == 200


def status_of(url: str, request_bytes: bytes) -> int:
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        connection.sendall(request_bytes)
        answer = connection.recv(65_536)
    return int(answer.split(b" ", 2)[1])


def test_an_own_origin_is_what_the_browser_says(served):
    assert ask(served, "/robots.txt", [HOME, ("origin", OWN)]).status == 200


# --- With a password

PASSWORD = "words of the house"


@pytest.fixture(scope="module")
def locked_url():
    url, close = opened(build_app(FakeEngine(), Doors(password=PASSWORD)))
    yield url
    close()


def test_a_gradio_client_comes_in_with_the_header(tmp_path):
    page = build_app(FakeEngine(), Doors(password=PASSWORD))
    with page:
        gr.api(read, api_name="read")
    url, close = opened(page)
    (tmp_path / "a.txt").write_text("hello")
    try:
        with pytest.raises(Exception, match="Please login"):
            Client(url, verbose=False)
        known = {"Authorization": f"Bearer {PASSWORD}"}
        client = Client(url, headers=known, verbose=False, analytics_enabled=False)
        said = client.predict(handle_file(tmp_path / "a.txt"), "there", api_name="/read")
        assert said == "hello there"
    finally:
        close()


def read(file: gr.FileData, word: str) -> str:
    return f"{Path(file['path']).read_text()} {word}"


def test_streams_files_and_uploads_need_it_over_sockets(locked_url):
    files = {"files": ("a.txt", b"hello")}
    known = {"authorization": f"Bearer {PASSWORD}"}
    with httpx.Client(base_url=locked_url) as client:
        path = client.post("/gradio_api/upload", files=files, headers=known).json()[0]
        assert client.get(f"/gradio_api/file={path}", headers=known).text == "hello"
        for one in ("/", f"/gradio_api/file={path}", "/gradio_api/queue/data?session_hash=a",
                    "/gradio_api/heartbeat/a", "/config", "/assets/x", "/static/x"):  # fmt: skip
            assert client.get(one).status_code == 401, one
        assert client.post("/gradio_api/upload", files=files).status_code == 401


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_logs_in_uses_the_page_and_logs_out(open_page, locked_url, scheme):
    page = open_page(PHONE, url=locked_url, ready=False, color_scheme=scheme)
    page.fill("#password", "wrong")
    page.click("button")
    page.wait_for_selector("[role=alert]")
    assert "not the password" in page.inner_text("main")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.fill("#password", PASSWORD)
    page.click("button")
    page.wait_for_selector("#message textarea:enabled")
    say(page, "How many legs have 7 spiders?")
    page.click("text=Log out")
    page.wait_for_selector("#password")
    page.goto(locked_url)
    assert page.is_visible("#password")


def test_the_header_warns_of_open_doors_and_offers_the_way_out():
    status = FakeEngine().status
    assert "no password" in header_html(status, Doors(listens=True))
    for closed in (Doors(), Doors(listens=True, password=PASSWORD, root_path="/t2")):
        assert "no password" not in header_html(status, closed)
    assert 'action="/t2/logout"' in header_html(status, closed)
    assert "logout" not in header_html(status, Doors())


def test_the_models_tab_says_who_can_open_the_page():
    for doors in (Doors(), Doors(listens=True, password=PASSWORD, names=frozenset({"study"}))):
        shown = str(build_app(FakeEngine(), doors).get_config_file()["components"])
        assert doors.statement in shown
        assert PASSWORD not in shown


FILES = ("file", "uploadbutton", "multimodaltextbox", "image", "gallery")


def test_a_file_that_was_not_uploaded_is_opened_by_no_event(tmp_path, monkeypatch):
    """Not even for who has the password: it opens the page, not the computer."""
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    secrets = [tmp_path / f"secret.{kind}" for kind in ("csv", "png", "safetensors")]
    for secret in secrets:
        secret.write_text("prompt,answer\nwell-kept,secret\n")
    url, close = opened(build_app(FakeEngine()))
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            config = client.get("/config").json()
            kinds = {one["id"]: one["type"] for one in config["components"]}
            events = [
                event
                for event in config["dependencies"]
                if event["backend_fn"] and any(kinds[i] in FILES for i in event["inputs"])
            ]
            assert len(events) > 3
            for event, secret in itertools.product(events, secrets):
                said = result_of(client, event["id"], [given(kinds[i], secret) for i in
                                                       event["inputs"]])  # fmt: skip
                assert "well-kept" not in said, (event, secret)
        assert not [path for path in uploads.rglob("*") if path.is_file()]
    finally:
        close()


def given(kind: str, secret: Path) -> object:
    """A value of a component that names a file of ours instead of an uploaded one."""
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    values = {"multimodaltextbox": {"text": "x", "files": [file]}, "gallery": [{"image": file}]}
    return values.get(kind, file) if kind in FILES else None


def result_of(client: httpx.Client, event: int, data: list) -> str:
    """All that the queue tells of one event."""
    joined = {"fn_index": event, "session_hash": "a-session", "data": data}
    assert client.post("/gradio_api/queue/join", json=joined).status_code == 200
    said = ""
    with client.stream("GET", "/gradio_api/queue/data?session_hash=a-session") as stream:
        for line in stream.iter_lines():
            said += line
            if "process_completed" in line or "close_stream" in line:
                break
    return said
