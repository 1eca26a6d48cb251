"""What the dispatch card says of similar training prompts, and which messages a page shows."""

import re
from dataclasses import replace

import pytest

from t2local.engine.chat_content import Chat, Message
from t2local.ui.chat.view import Window, transcript_html, window_on
from tests.ui.conftest import ask

NEAR = {
    "chosen": "mails",
    "strategy": "similarity",
    "probabilities": {"mails": 0.9, "other": 0.1},
    "alpha": {"mails": 0.9},
    "near": [["mails", 2], ["mails", 0], ["other", 7], ["mails", 9]],
}
MAILS = ("Where is my <b>parcel</b>?", "Another", "I want\nmy money back " + "please " * 40)


def answered_by(dispatch):
    chat = Chat(id="a").ask("hello")
    return replace(chat, messages=(*chat.messages, Message("assistant", "Hi.", dispatch=dispatch)))


def test_the_card_says_what_a_message_is_near_to():
    page = transcript_html(answered_by(NEAR), prompts_of=lambda name: MAILS)
    assert "3 of what mails learnt from" in page
    assert "1 everyday messages" not in page
    assert "1 everyday message" in page
    assert "&lt;b&gt;parcel&lt;/b&gt;" in page
    assert "I want my money back please" in page
    assert "please " * 20 not in page  # in short


def test_without_the_runs_data_the_card_shows_no_words_of_it():
    page = transcript_html(answered_by(NEAR))
    assert "3 of what mails learnt from" in page
    assert "<q>" not in page


CHOSEN = {
    "expert": "mails",
    "shares": {"delivery": 0.7, "<i>billing</i>": 0.3},
}


def test_the_card_of_a_choosing_expert_has_a_bar_for_each_label_and_lets_it_write():
    page = transcript_html(answered_by({**NEAR, "choice": CHOSEN}), ("mails", "base"))
    assert "was trained to choose" in page
    assert "&lt;i&gt;billing&lt;/i&gt;" in page
    assert 'data-act="write_instead"' in page
    assert "chosen among its labels" in page
    assert "tok/s" not in page


def test_an_older_answer_cannot_be_written_anew():
    chat = answered_by({**NEAR, "choice": CHOSEN}).ask("and now?")
    assert 'data-act="write_instead"' not in transcript_html(chat, ("mails", "base"))


@pytest.mark.parametrize(
    "choice", [3, "delivery", {}, {"shares": 3}, {"shares": {"a": "x"}}, {"expert": "mails"}]
)
def test_a_chat_with_a_garbled_choice_is_shown_without_it(choice):
    assert "trained to choose" not in transcript_html(answered_by({**NEAR, "choice": choice}))


@pytest.mark.parametrize("near", [None, 3, "mails", [3], [["mails"]], [["mails", -1]], [[3, "m"]]])
def test_a_chat_with_garbled_neighbours_is_shown_without_them(near):
    assert "near to" not in transcript_html(answered_by({**NEAR, "near": near}))


def long_chat(count: int) -> Chat:
    """`count` messages, the last of them an answer where the count is even."""
    roles = ("user", "assistant")
    return Chat("ab" * 16, "t", tuple(Message(roles[i % 2], f"said {i}.") for i in range(count)))


@pytest.mark.parametrize("count", [1, 59, 60, 61, 62, 261, 2_000])
def test_a_page_shows_the_newest_messages_and_then_those_before(count):
    chat, window, seen = long_chat(count), window_on(long_chat(count), Window()), []
    while True:
        html = transcript_html(chat, first=window.first)
        places = [int(place) for place in re.findall(r'data-index="(\d+)"', html)]
        assert places[: count - window.first] == list(range(window.first, count))
        seen.append(count - window.first)
        if not window.first:
            break
        assert f"of {window.first:,} earlier messages" in html
        window = window.earlier()
        assert window_on(chat, window) == window, "another turn does not fold them again"
    assert "earlier" not in html
    assert seen[0] <= 61
    assert seen == sorted(set(seen)), "each click shows more"
    assert chat.messages[count - seen[0]].role == "user", "no answer without its question"


def test_another_chat_begins_with_its_newest_messages():
    assert window_on(long_chat(300), Window("cd" * 16, 5)).first == 240
    assert window_on(long_chat(4), Window("ab" * 16, 240)).first == 0, "it has become shorter"


@pytest.mark.browser
def test_earlier_messages_come_above_and_the_reader_stays_where_he_is(open_page, served):
    chat = served.engine.chats.save(replace(long_chat(150), id="ef" * 16))
    page = open_page(url=f"{served.url}?chat={chat.id}")
    page.wait_for_selector(".said >> text=said 148.")
    assert page.locator(".turn").count() == 60
    page.click(".earlier")
    page.wait_for_selector(".said >> text=said 0.")
    place = "document.querySelector('[data-index=\"90\"]').getBoundingClientRect().top"
    box = page.locator("#transcript").bounding_box()
    assert box["y"] - 5 <= page.evaluate(place) < box["y"] + box["height"]
    ask(page, "and one more")
    assert page.locator(".turn").count() == 152, "they stay"
    assert page.inner_text("#live").strip() == ""


def test_an_answer_is_compared_with_each_of_its_other_versions():
    chat = answered_by(None)
    for said in ("It is 4 legs.", "It is 56 legs."):
        chat = chat.unanswered()
        chat = replace(chat, messages=(*chat.messages, Message("assistant", said)))
    html = transcript_html(chat)
    assert re.findall(r"compare with version (\d)", html) == ["2", "1"], "the nearest first"
    assert "It is <del>4</del> legs." in html
    assert "It is <ins>56</ins> legs." in html
    assert "compare with" not in transcript_html(chat, at_work=True)


@pytest.mark.browser
def test_what_is_said_is_kept_on_disk_and_not_in_the_browser_too(open_page):
    page = open_page()
    ask(page, "words that nobody else should find")
    page.wait_for_timeout(500)
    assert "nobody else" not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
