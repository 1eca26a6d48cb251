"""A served page with a scripted engine, and chromium to drive it."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from t2local.engine.access import IDLE_S
from t2local.engine.chats import ChatStore
from t2local.ui.launch import Server
from t2local.ui.page import Page, build_app
from tests.ui.fake_engine import FakeEngine

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DESKTOP, PHONE = (1440, 900), (390, 844)


@dataclass
class Served:
    engine: FakeEngine
    url: str


def serve(folder: Path, **options) -> tuple[Served, Callable[[], None]]:
    """A page on a free port, and the function that closes it."""
    engine = FakeEngine(chats=ChatStore(folder), **options)
    url, close = opened(build_app(engine))
    return Served(engine, url), close


def opened(page: Page, idle_s: float = IDLE_S) -> tuple[str, Callable[[], None]]:
    """A page served as `python app.py` serves it, on a free port: its address, and its end."""
    server = Server(page, "127.0.0.1", 0)
    server.config.app.idle_s = idle_s
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.01)

    def close() -> None:
        server.should_exit = True
        thread.join(timeout=20)

    return server.url(), close


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    served, close = serve(tmp_path_factory.mktemp("chats"), delay_s=0.02)
    yield served
    close()


@pytest.fixture
def open_page(browser, served) -> Iterator[Callable[..., object]]:
    """`open_page(size=DESKTOP)`: the page in a browser of its own, ready to be written to."""
    contexts, problems = [], []

    def open_it(size=DESKTOP, url=None, ready=True, **options):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend(_outside(request.url)))
        page.goto(url or served.url)
        if ready:
            page.wait_for_selector("#message textarea:enabled")
            page.wait_for_selector("[data-expert]", state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == [], "script errors, or requests that leave this computer"


def _outside(url: str) -> list[str]:
    return [] if url.startswith(("http://127.0.0.1", "data:", "blob:")) else [url]


def ask(page, text: str, *, wait: bool = True) -> None:
    """Write a message and send it; `wait` until the answer is complete."""
    before = page.locator(".turn.user").count()
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter")
    page.locator(".turn.user").nth(before).wait_for()
    page.wait_for_selector(".turn.assistant")
    if wait:
        done(page)


def done(page) -> None:
    page.wait_for_selector(".turn.assistant:last-child [data-act=retry]")


def writing(page, words: str) -> None:
    """Wait until the answer being written contains `words`."""
    page.wait_for_selector(f".turn.live .answer >> text={words}")


def open_tab(page, name):
    """Click a tab; on a phone it is scrolled to."""
    page.get_by_role("tab", name=name).click()
