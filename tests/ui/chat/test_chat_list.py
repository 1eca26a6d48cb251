"""The chats of a page as a library: versions, addresses, search, titles."""

from types import SimpleNamespace

import pytest

from t2local.engine.chat_index import ChatSummary
from t2local.ui.chat.chat_list import AT_FIRST, SHOWN, Listing, chat_list_html, listing_of
from tests.ui.conftest import ask, done, writing


def test_chat_list_marks_the_current_and_groups_by_age():
    chats = [ChatSummary("aa" * 8, "<new>", 1000.0), ChatSummary("bb" * 8, "old", 0.0)]
    html = chat_list_html(chats, "bb" * 8, now=200_000.0)
    assert "&lt;new&gt;" in html
    assert html.count('aria-current="true"') == 1
    assert "last 7 days" in html


def test_pinned_chats_come_first_whatever_their_age():
    chats = [ChatSummary(f"{i}{i}" * 8, f"chat {i}", 9.0 - i, pinned=i == 3) for i in range(4)]
    html = chat_list_html(chats, None, now=10.0, listing=Listing(2))
    assert html.index("<h6>pinned</h6>") < html.index("chat 3") < html.index("<h6>last 24 hours")
    assert html.count("<h6>pinned") == 1
    assert "chat 1<" not in html, "of two rows one is the pinned chat's"
    assert 'aria-label="Pin chat 3" aria-pressed="true"' in html
    assert 'aria-label="Pin chat 0" aria-pressed="false"' in html


def test_tags_are_chips_of_which_those_searched_are_pressed():
    chats = [ChatSummary("aa" * 8, "one", 1.0, tags=("Work", "<b>"))]
    html = chat_list_html(chats, None, listing=Listing(query="words #work"))
    assert 'data-tag="Work" title="Show the chats with this tag" aria-pressed="true"' in html
    assert 'aria-pressed="false">#&lt;b&gt;</button>' in html
    assert "chat-tags" not in chat_list_html([ChatSummary("aa" * 8, "one", 1.0)], None)


def test_chat_list_marks_the_chats_that_are_being_answered():
    chats = [ChatSummary("aa" * 8, "new", 1000.0), ChatSummary("bb" * 8, "old", 0.0)]
    assert 'class="dot"' not in chat_list_html(chats, None)
    html = chat_list_html(chats, None, answered=("bb" * 8, "cc" * 8))
    assert html.count('title="Being answered"') == 1
    assert html.index('class="dot"') > html.index(f'data-id="{"bb" * 8}"')


def test_chat_list_shows_the_newest_and_offers_the_others():
    chats = [ChatSummary(f"{i:032x}", f"chat {i}", 10_000.0 - i) for i in range(10_000)]
    html = chat_list_html(chats, chats[9_000].id, now=10_000.0)
    assert html.count('class="chat-row"') == SHOWN + 1, "the newest, and the one that is open"
    assert 'aria-current="true"><button type="button" class="chat-title"' in html
    assert "Show more (9,799 older)" in html
    assert len(html) < 200_000
    steps, shown = 0, SHOWN
    while 'data-act="more"' in html:
        shown = int(html.partition('data-shown="')[2].partition('"')[0])
        html, steps = chat_list_html(chats, None, listing=Listing(shown)), steps + 1
    assert html.count('class="chat-row"') == 10_000
    assert steps <= 3
    for wrong in (None, "x", -5, 3):
        assert listing_of(SimpleNamespace(shown=wrong, query=wrong)).rows == SHOWN
    assert listing_of(SimpleNamespace(shown=800, query="x")) == (800, "x")
    assert listing_of(SimpleNamespace()) == AT_FIRST == (SHOWN, "")
    assert len(listing_of(SimpleNamespace(query="x" * 999)).query) == 200


def kept(served, title):
    """The chat of this title, from disk."""
    (found,) = [chat for chat in served.engine.chats.list() if chat.title == title]
    return served.engine.chats.load(found.id)


@pytest.mark.browser
def test_what_was_edited_or_answered_again_can_be_gone_back_to(open_page, served):
    page = open_page()
    ask(page, "some code first")
    page.hover(".turn.user")
    page.click("[data-act=edit]")
    page.fill(".editor textarea", "then reasoning")
    page.press(".editor textarea", "Enter")
    page.wait_for_selector(".said >> text=then reasoning")
    done(page)
    page.click("[data-act=retry]")
    page.wait_for_selector("#stop:visible")
    done(page)
    assert page.inner_text(".turn.assistant .turner").split() == ["‹", "2/2", "›"]
    page.click(".other summary")
    assert page.inner_text(".other h5 >> nth=0") == "version 1"
    assert "The answer is 56" in page.inner_text(".other pre >> nth=0")
    page.click(".turn.assistant .turner button >> nth=0")
    page.wait_for_selector(".turn.assistant .turner >> text=1/2")
    page.click(".turn.user .turner button >> nth=0")
    page.wait_for_selector(".said >> text=some code first")
    assert page.input_value("[data-expert=code]") == "0.85", "the sliders are that answer's"
    page.reload()
    page.wait_for_selector(".said >> text=some code first")
    page.click(".turn.user .turner button >> nth=1")
    page.wait_for_selector(".said >> text=then reasoning")
    chat = served.engine.chats.load(served.engine.chats.list()[0].id)
    assert len(chat.messages) + len(chat.versions) == 5


@pytest.mark.browser
def test_all_chats_are_searched(open_page, served):
    page = open_page()
    ask(page, "the quick ZEBRA runs")
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    ask(page, "something else")
    titles = page.locator(".chat-title")
    page.fill("#chat-search input, #chat-search textarea", "zebra quick")
    page.wait_for_function("document.querySelectorAll('.chat-title').length === 1")
    assert "ZEBRA" in titles.first.inner_text()
    titles.first.click()
    page.wait_for_selector(".said >> text=the quick ZEBRA runs")
    assert titles.count() == 1, "the list stays as it was searched"
    page.fill("#chat-search input, #chat-search textarea", "no such words anywhere")
    page.wait_for_selector("text=No chat has all of these words.")
    page.fill("#chat-search input, #chat-search textarea", "")
    page.wait_for_function("document.querySelectorAll('.chat-title').length > 1")


@pytest.mark.browser
def test_each_chat_has_an_address_that_back_and_forth_go_through(open_page, served):
    page = open_page()
    ask(page, "first address")
    first = page.url
    assert f"chat={kept(served, 'first address').id}" in first
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    ask(page, "second address, slowly", wait=False)
    writing(page, "Each spider")
    second = page.url
    assert second != first
    page.go_back()
    page.wait_for_selector(".turn.user .said >> text=first address")
    assert page.url == first
    page.go_forward()
    page.wait_for_selector(".turn.user .said >> text=second address, slowly")
    page.reload()
    page.wait_for_selector(".turn.user .said >> text=second address, slowly")
    done(page)
    assert "The answer is 56" in page.inner_text(".turn.assistant")
    fresh = page.context.browser.new_context().new_page()
    fresh.goto(first)
    fresh.wait_for_selector(".turn.user .said >> text=first address")
    fresh.goto(first.partition("?")[0] + "?chat=nonsense")
    fresh.wait_for_selector(".welcome")
    fresh.context.close()


@pytest.mark.browser
def test_no_two_chats_are_called_the_same(open_page):
    page = open_page()
    for _ in range(3):
        page.click("#new-chat")
        page.wait_for_selector(".welcome")
        ask(page, "thrice the same")
    found = [t.strip() for t in page.locator(".chat-title").all_inner_texts()]
    assert found[:3] == ["thrice the same (3)", "thrice the same (2)", "thrice the same"]
