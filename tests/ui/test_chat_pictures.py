"""Pictures in the chat, in a real browser before a scripted engine."""

import base64
from pathlib import Path

import pytest
from PIL import Image

from tests.ui.conftest import ask, done, serve

pytestmark = pytest.mark.browser

PASTE = """(data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const clipboard = new DataTransfer();
  clipboard.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
  const event = new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true });
  document.querySelector("#message textarea").dispatchEvent(event);
}"""


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    for colour in ("crimson", "teal"):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{colour}.png")
    return [str(tmp_path / f"{colour}.png") for colour in ("crimson", "teal")]


@pytest.fixture
def seeing(tmp_path):
    served, close = serve(tmp_path / "chats", sees=True)
    yield served
    close()


def attached(page):
    return page.locator("#message .thumbnail-item img")


def test_pictures_are_attached_removed_sent_and_kept(open_page, seeing, pictures):
    page = open_page(url=seeing.url)
    page.set_input_files("#message input[type=file]", pictures)
    attached(page).nth(1).wait_for()
    page.locator("#message .delete-button").first.click()
    page.wait_for_function("document.querySelectorAll('#message .thumbnail-item').length === 1")
    ask(page, "What colour is it?")
    (message,) = seeing.engine.requests[-1][1].messages
    (kept,) = message["images"]
    assert Path(kept).is_relative_to(seeing.engine.chats.pictures_folder)
    assert Image.open(kept).convert("RGB").getpixel((0, 0)) == (0, 128, 128)
    assert attached(page).count() == 0, "the message box is empty again"
    page.reload()
    shown = page.locator(".turn.user .pictures img")
    shown.wait_for()
    page.wait_for_function("document.querySelector('.pictures img').naturalWidth === 60")
    assert shown.get_attribute("alt") == "picture 1 of 1"
    page.click("[data-act=retry]")
    done(page)
    assert seeing.engine.requests[-1][1].messages[0]["images"] == [kept]


def test_a_picture_is_pasted(open_page, seeing, pictures):
    page = open_page(url=seeing.url)
    page.evaluate(PASTE, base64.b64encode(Path(pictures[0]).read_bytes()).decode())
    attached(page).wait_for()
    ask(page, "What colour is it?")
    assert len(seeing.engine.requests[-1][1].messages[0]["images"]) == 1


def test_a_model_that_reads_text_only_says_so_and_keeps_the_draft(open_page, served, pictures):
    page = open_page()
    asked = len(served.engine.requests)
    page.evaluate(PASTE, base64.b64encode(Path(pictures[0]).read_bytes()).decode())
    attached(page).wait_for()
    page.fill("#message textarea", "What colour is it?")
    page.click("#send")
    page.wait_for_selector("text=reads text only and cannot see the picture")
    assert page.input_value("#message textarea") == "What colour is it?"
    assert len(served.engine.requests) == asked


def test_a_chat_goes_on_under_a_model_that_reads_text_only(open_page, seeing, pictures):
    page = open_page(url=seeing.url)
    page.set_input_files("#message input[type=file]", pictures[:1])
    attached(page).wait_for()
    ask(page, "What colour is it?")
    seeing.engine.sees = False
    ask(page, "And now?")
    assert all("images" not in m for m in seeing.engine.requests[-1][1].messages)
    assert "not seen by it" in page.inner_text(".turn.user .pictures")
