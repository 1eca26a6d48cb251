"""What the dispatch card says of the training prompts that a message is like."""

from dataclasses import replace

import pytest

from t2local.engine.chat_content import Chat, Message
from t2local.ui.chat.view import transcript_html

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
