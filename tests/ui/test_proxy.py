"""The page behind a reverse proxy that puts it at a path of its own."""

import threading
import time

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from t2local.engine.doors import Doors
from t2local.ui.page import build_app
from tests.ui.conftest import ask, open_tab, opened
from tests.ui.fake_engine import FakeEngine

PATH, PASSWORD = "/t2", "words of the house"
NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length"}
PUBLIC = "https://example.org"


def proxy_of(target: str, stripped: bool) -> Starlette:
    """What nginx does with `location /t2/`; `stripped`: whether the path is taken away."""
    client = httpx.AsyncClient(base_url=target, timeout=60)

    async def forward(request: Request):
        path = request.url.path
        if not path.startswith(f"{PATH}/"):
            return PlainTextResponse("another site's page", 404)
        asked = path.removeprefix(PATH) if stripped else path
        headers = [(k, v) for k, v in request.headers.items() if k not in NOT_PASSED_ON]
        scheme = request.headers.get("x-test-scheme", "http")
        headers += [("x-forwarded-for", request.client.host), ("x-forwarded-proto", scheme)]
        has_body = request.method not in ("GET", "HEAD")
        passed_on = client.build_request(
            request.method, httpx.URL(path=asked, query=request.url.query.encode()),
            headers=headers, content=request.stream() if has_body else None,
        )  # fmt: skip
        answer = await client.send(passed_on, stream=True)
        response = StreamingResponse(
            answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose)
        )
        kept = [(k, v) for k, v in answer.headers.raw if k.decode().lower() not in NOT_PASSED_ON]
        response.raw_headers = [(k.lower(), v) for k, v in kept]
        return response

    proxy = Starlette()
    proxy.add_route("/{path:path}", forward, methods=["GET", "HEAD", "POST", "OPTIONS"])
    return proxy


@pytest.fixture(scope="module", params=[True, False], ids=["path taken away", "path left"])
def public(request):
    """The address of the page at the proxy."""
    doors = Doors(proxied=True, names=frozenset({"example.org"}), root_path=PATH, password=PASSWORD)
    url, close = opened(build_app(FakeEngine(), doors))
    config = uvicorn.Config(
        proxy_of(url, request.param),
        "127.0.0.1",
        0,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}{PATH}/"
    server.should_exit = True
    close()
    thread.join(timeout=10)


@pytest.mark.browser
def test_a_browser_logs_in_chats_uploads_and_logs_out(open_page, public, tmp_path):
    page = open_page(url=public, ready=False)
    outside, refused = [], []
    page.on("request", lambda one: outside.append(one.url) if public not in one.url else None)
    page.on("response", lambda one: refused.append(one.url) if one.status >= 400 else None)
    page.fill("#password", PASSWORD)
    page.click("button")
    page.wait_for_selector("#message textarea:enabled")
    assert page.url.partition("?chat=")[0] == public
    ask(page, "How many legs have 7 spiders?")
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,answer\n" + "".join(f"{n} and {n}?,{2 * n}\n" for n in range(12)))
    open_tab(page, "Train")
    page.set_input_files("#train-file input[type=file]", str(rows))
    page.wait_for_selector("#train-file >> text=rows.csv")
    assert all("/login" in url or url == public for url in refused)
    page.press(".log-out button", "Enter")  # a message may lie over it
    page.wait_for_selector("#password")
    assert page.url == public
    assert not [url for url in outside if not url.startswith(("data:", "blob:"))]


def test_what_the_page_fetches_lies_below_the_path_at_the_public_address(public):
    headers = {"host": "example.org", "x-test-scheme": "https"}
    known = {**headers, "authorization": f"Bearer {PASSWORD}"}
    with httpx.Client(base_url=public, headers=known) as client:
        assert client.get("config").json()["root"] == PUBLIC + PATH
        own = {"origin": PUBLIC}
        assert client.post("gradio_api/upload", files={"files": b"x"}, headers=own).is_success
        for origin in ("http://example.org", "https://evil.example", "null"):
            assert client.post("login", headers={"origin": origin}).status_code == 403
    with httpx.Client(base_url=public, headers={"host": "evil.example"}) as client:
        assert client.get("").status_code == 421
    with httpx.Client(base_url=public, headers=headers) as client:
        entered = client.post("login", data={"password": PASSWORD})
        assert entered.headers["location"] == f"{PATH}/"
        assert entered.headers["set-cookie"].endswith("SameSite=Strict; Secure")
        assert "Path=/t2;" in entered.headers["set-cookie"]
