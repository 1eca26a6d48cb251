"""The page on the real engine and the embedded model: one answer, steered while it is spoken."""

import pytest

from t2local.engine.engine import Engine
from t2local.ui.page import build_app
from tests.ui.conftest import done, opened

pytestmark = [pytest.mark.browser, pytest.mark.model]


@pytest.fixture
def url(embedded_home):
    engine = Engine("embedded", quantize="none")
    engine.start()
    url, close = opened(build_app(engine))
    yield url
    close()


def test_a_real_answer_is_dispatched_steered_and_stopped(open_page, url):
    page = open_page(url=url, ready=False)
    page.set_default_timeout(60_000)
    page.wait_for_selector("#message textarea:enabled", timeout=400_000)  # decomposes first
    page.wait_for_selector("[data-expert]")
    page.fill("#message textarea", "Which is a conductor: a copper wire or a glass cup?")
    page.press("#message textarea", "Enter")
    page.wait_for_selector(".turn.live .card")
    page.focus("[data-expert]")
    page.keyboard.press("End")
    page.wait_for_selector(".adapted .tok")
    page.wait_for_selector(".steer")
    if page.is_visible("#stop"):
        page.click("#stop")
    done(page)
    assert page.inner_text(".turn.assistant .answer").strip()
    assert "tok/s" in page.inner_text("#line")
