"""The keys of the chat, and the message that waits for the end of an answer."""

import pytest

from tests.ui.conftest import DESKTOP, PHONE, ask, done, open_tab, writing

pytestmark = pytest.mark.browser
BOX = "#message textarea"


def focused(page):
    return page.evaluate("document.activeElement === document.querySelector('#message textarea')")


def test_an_opened_page_is_ready_to_be_written_to(open_page):
    page = open_page()
    page.wait_for_function("document.activeElement === document.querySelector('#message textarea')")
    page.keyboard.type("at once")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn.user .said >> text=at once")


def test_a_message_written_during_an_answer_waits_for_its_end(open_page, served):
    page = open_page()
    ask(page, "the first, slowly", wait=False)
    writing(page, "Each spider")
    page.fill(BOX, "the second")
    page.press(BOX, "Enter")
    page.wait_for_selector("#waiting >> text=the second")
    assert page.input_value(BOX) == ""
    assert page.locator(".toast-body").count() == 0
    page.wait_for_selector(".turn.user .said >> text=the second", timeout=30_000)
    done(page)
    assert page.locator(".turn.user").count() == 2
    assert not page.is_visible("#waiting")


def test_what_waits_is_for_its_own_chat(open_page, served):
    page = open_page()
    ask(page, "slowly, and then away", wait=False)
    writing(page, "Each spider")
    page.fill(BOX, "for the first chat")
    page.press(BOX, "Enter")
    page.wait_for_selector("#waiting >> text=for the first chat")
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    page.wait_for_timeout(1_000)
    assert page.locator(".turn.user").count() == 0
    page.click(".chat-title >> text=slowly, and then away")
    page.wait_for_selector(".turn.user .said >> text=for the first chat", timeout=30_000)


def test_what_waits_can_be_taken_back(open_page):
    page = open_page()
    ask(page, "the first, very slowly", wait=False)
    writing(page, "Each spider")
    page.fill(BOX, "rather not")
    page.press(BOX, "Enter")
    page.click("#waiting button")
    assert page.input_value(BOX) == "rather not"
    page.fill(BOX, "")
    page.keyboard.press("Escape")
    done(page)
    assert "stopped" in page.inner_text(".acts .facts")
    assert page.locator(".turn.user").count() == 1


def test_keys_go_to_the_box_edit_the_last_message_and_list_themselves(open_page):
    page = open_page()
    ask(page, "to be mended")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    assert "edit your last message" in page.inner_text("#keys")
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    page.keyboard.press("/")
    assert focused(page)
    assert page.input_value(BOX) == "", "the key itself is not written"
    page.keyboard.press("ArrowUp")
    page.wait_for_selector(".turn.user .editor textarea")
    assert page.input_value(".editor textarea") == "to be mended"
    page.keyboard.press("Escape")
    page.fill(BOX, "a / and ? in a text")
    assert page.input_value(BOX) == "a / and ? in a text"


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_first_stop_of_a_keyboard_skips_to_the_message_box(open_page, size):
    """Also from another tab; there nothing takes the focus when the page is opened."""
    page = open_page(size)
    open_tab(page, "Experts")
    page.reload()
    page.wait_for_selector("[role=tab][aria-selected=true] >> text=Experts")
    page.wait_for_function("document.activeElement === document.body")
    page.keyboard.press("Tab")
    link = page.locator("#skip:focus")
    link.wait_for()
    assert link.inner_text() == "To the message box"
    box = link.bounding_box()
    assert box["y"] >= 0, "it is seen"
    assert box["x"] + box["width"] <= size[0]
    page.keyboard.press("Enter")
    page.wait_for_selector("#message textarea:focus")
    page.keyboard.type("straight to it")
    assert page.input_value("#message textarea") == "straight to it"
    assert page.locator("#skip").bounding_box()["y"] < 0, "it is out of the way again"


def test_on_a_touch_screen_it_is_the_first_stop_of_the_chat_too(open_page):
    page = open_page(PHONE, has_touch=True, is_mobile=True)
    page.keyboard.press("Tab")
    page.wait_for_selector("#skip:focus")
    page.keyboard.press("Enter")
    page.wait_for_selector("#message textarea:focus")
