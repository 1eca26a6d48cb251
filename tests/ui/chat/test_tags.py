"""Chats that are pinned and tagged in the list, by mouse, by finger and by keyboard."""

import pytest

from tests.ui.conftest import DESKTOP, PHONE, ask, serve

SEARCH = "#chat-search input, #chat-search textarea"


@pytest.fixture
def home(tmp_path):
    """A page with three chats, the newest first: `alpha`, `beta`, `gamma`."""
    served, close = serve(tmp_path / "chats", delay_s=0.0)
    store = served.engine.chats
    served.ids = {name: store.save(store.new().ask(name)).id for name in ("gamma", "beta", "alpha")}
    yield served
    close()


def titles(page):
    return [title.strip() for title in page.locator(".chat-title").all_inner_texts()]


def until(page, *wanted):
    page.wait_for_function(
        "wanted => [...document.querySelectorAll('.chat-title')].map(t => t.textContent.trim())"
        ".join() === wanted",
        arg=",".join(wanted),
    )


def row(page, home, name):
    return page.locator(f'.chat-row[data-id="{home.ids[name]}"]')


def opened(open_page, home, size):
    page = open_page(size, url=home.url)
    if size == PHONE:
        page.click("#drawers [data-page=show-chats]")
    until(page, "alpha", "beta", "gamma")
    return page


def press(page, home, name, act):
    row(page, home, name).hover()
    row(page, home, name).locator(f"[data-act={act}]").click()


def focused(page, attribute):
    return page.evaluate("name => document.activeElement.getAttribute(name)", attribute)


@pytest.mark.browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_chat_is_pinned_to_the_top_and_let_go(open_page, home, size):
    page = opened(open_page, home, size)
    press(page, home, "gamma", "pin")
    until(page, "gamma", "alpha", "beta")
    assert page.locator(".chats h6").all_inner_texts() == ["pinned", "last 24 hours"]
    page.wait_for_selector("[aria-label='Pin gamma'][aria-pressed=true]:focus")
    page.reload()
    if size == PHONE:
        page.click("#drawers [data-page=show-chats]")
    until(page, "gamma", "alpha", "beta")
    press(page, home, "gamma", "pin")
    until(page, "alpha", "beta", "gamma")


@pytest.mark.browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_tags_are_added_filter_the_list_and_are_taken_off_in_place(open_page, home, size):
    page, store = opened(open_page, home, size), home.engine.chats
    for name in ("beta", "gamma"):
        press(page, home, name, "tags")
        page.keyboard.type("Deep learning, todo" if name == "beta" else "todo")
        page.keyboard.press("Enter")
        row(page, home, name).locator("[data-tag=todo]").wait_for()
        row(page, home, name).locator(".chat-tagging [data-act=tags]").click()
        page.locator(".chat-tagging").wait_for(state="detached")
    assert store.load(home.ids["beta"]).tags == ("Deep-learning", "todo")
    assert row(page, home, "beta").locator(".chat-tags").inner_text().split() == [
        "#Deep-learning", "#todo",
    ]  # fmt: skip
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "nothing is wider than the page"
    row(page, home, "gamma").locator("[data-tag=todo]").click()
    until(page, "beta", "gamma")
    assert page.input_value(SEARCH) == "#todo"
    page.wait_for_selector("[data-tag=todo][aria-pressed=true]")
    row(page, home, "beta").locator("[data-tag=Deep-learning]").click()
    until(page, "beta")
    row(page, home, "beta").locator("[data-tag=Deep-learning]").click()
    until(page, "beta", "gamma")
    press(page, home, "gamma", "tags")
    row(page, home, "gamma").get_by_role("button", name="Take the tag todo off gamma").click()
    until(page, "beta")
    page.fill(SEARCH, "#nothing")
    page.wait_for_selector("text=No chat has all of these words.")
    page.fill(SEARCH, "#dee")
    until(page, "beta")


@pytest.mark.browser
def test_tags_are_written_with_keys_alone(open_page, home):
    page = opened(open_page, home, DESKTOP)
    row(page, home, "alpha").locator(".chat-title").focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    assert focused(page, "aria-label") == "Tags of alpha"
    page.keyboard.press("Enter")
    assert focused(page, "aria-label") == "Add a tag to alpha"
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-tag=one]")
    page.wait_for_function(
        "document.activeElement.getAttribute('aria-label') === 'Add a tag to alpha'"
    )
    page.keyboard.type("x" * 30)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=A tag has at most 24 characters")
    assert focused(page, "aria-label") == "Add a tag to alpha", "what was written can be mended"
    page.keyboard.press("Escape")
    assert focused(page, "aria-label") == "Tags of alpha"
    assert home.engine.chats.load(home.ids["alpha"]).tags == ("one",)


@pytest.mark.browser
def test_an_answer_keeps_what_its_chat_was_given(open_page, home):
    page = opened(open_page, home, DESKTOP)
    row(page, home, "gamma").locator(".chat-title").click()
    page.wait_for_selector(".said >> text=gamma")
    press(page, home, "gamma", "tags")
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-tag=mine]")
    ask(page, "and more")
    page.wait_for_selector("[data-tag=mine]")
    assert home.engine.chats.load(home.ids["gamma"]).tags == ("mine",)
