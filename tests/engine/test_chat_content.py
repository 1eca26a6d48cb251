"""Versions: what was edited or answered again stays, and can be gone back to."""

from dataclasses import replace

import pytest

from t2local.engine.chat_content import Chat, Message, Version
from t2local.engine.chats import ChatStore
from t2local.errors import T2LocalError


def said(chat):
    return [message.content for message in chat.messages]


def answer(chat, text):
    return replace(chat, messages=(*chat.messages, Message("assistant", text)))


@pytest.fixture
def chat() -> Chat:
    return answer(ChatStore().new().ask("q"), "a")


def again(chat, text):
    return answer(chat.unanswered(), text)


def test_a_chat_without_versions_has_one_of_each_and_no_ids(chat):
    assert [chat.version_of(i) for i in range(2)] == [(1, 1), (1, 1)]
    assert [message.id for message in chat.messages] == [0, 0]


def test_answers_are_walked_in_the_order_in_which_they_came(chat):
    chat = again(again(chat, "b"), "c")
    assert chat.version_of(1) == (3, 3)
    first = chat.turned(1, -2)
    assert (said(first), first.version_of(1)) == (["q", "a"], (1, 3))
    assert said(first.turned(1, 1)) == ["q", "b"]
    last = first.turned(1, 2)
    assert (said(last), last.version_of(1)) == (["q", "c"], (3, 3))


def test_an_edited_question_keeps_all_that_followed_it(chat):
    longer = answer(chat.ask("q2"), "a2")
    edited = answer(longer.edit(0, "other"), "b")
    assert said(edited) == ["other", "b"]
    assert edited.version_of(0) == (2, 2)
    assert edited.version_of(1) == (1, 1), "the first one's answers are not the second one's"
    assert said(edited.turned(0, -1)) == ["q", "a", "q2", "a2"]


def test_versions_within_versions(chat):
    chat = again(answer(chat.ask("q2"), "a2"), "b2")
    chat = answer(chat.edit(0, "other"), "b")
    back = chat.turned(0, -1)
    assert said(back) == ["q", "a", "q2", "b2"]
    assert back.version_of(3) == (2, 2)
    assert said(back.turned(3, -1)) == ["q", "a", "q2", "a2"]
    assert said(back.turned(3, -1).turned(0, 1)) == ["other", "b"]


def test_nothing_is_lost_or_doubled_on_the_way(chat):
    chat = again(answer(chat.ask("q2"), "a2"), "b2").edit(2, "q3")
    everything = sorted([*said(chat), *(v.message.content for v in chat.versions)])
    for index, step in ((2, -1), (3, -1), (2, 1), (2, -1), (3, 1)):
        if index < len(chat.messages):
            place, count = chat.version_of(index)
            if 1 <= place + step <= count:
                chat = chat.turned(index, step)
        found = sorted([*said(chat), *(v.message.content for v in chat.versions)])
        assert found == everything


def test_an_answer_that_did_not_come_leaves_the_one_before(chat):
    waiting = chat.unanswered()
    assert waiting.version_of(1) == (0, 1)
    assert said(waiting.turned(1, 1)) == ["q", "a"]
    assert said(again(chat, "  ").unanswered().turned(1, 1)) == ["q", "a"], "nothing was said"


def test_what_is_not_there_is_refused(chat):
    for index, step in ((1, -1), (1, 1), (0, 5), (2, 1), (9, 1), (-1, 1)):
        with pytest.raises(T2LocalError, match="no other version"):
            chat.turned(index, step)


def test_two_answers_that_say_the_same_stay_two(chat):
    chat = again(again(chat, "a"), "a")
    for step in (-1, -1, 1, 1, -2):
        chat = chat.turned(1, step)
        ids = [chat.messages[1].id, *(v.message.id for v in chat.versions)]
        assert len(set(ids)) == 3


def test_the_others_are_those_that_are_not_shown(chat):
    assert chat.others(1) == []
    chat = again(chat, "b")
    assert [(place, other.content) for place, other in chat.others(1)] == [(1, "a")]
    assert [other.content for _, other in chat.turned(1, -1).others(1)] == ["b"]


def test_versions_are_kept_on_disk_with_their_decisions(chat):
    store = ChatStore()
    decided = replace(chat.messages[1], dispatch={"strategy": "manual", "alpha": {"math": 1.0}})
    chat = again(replace(chat, messages=(chat.messages[0], decided)), "b")
    kept = store.load(store.save(chat).id)
    assert kept.versions == chat.versions
    back = kept.turned(1, -1)
    assert back.messages[1].dispatch["alpha"] == {"math": 1.0}
    assert [message.id for message in back.messages] == [1, 2]


def test_damaged_versions_cost_only_themselves(chat):
    store = ChatStore()
    saved = store.save(again(chat, "b"))
    path = store.folder / f"{saved.id}.json"
    text = path.read_text()
    for bad in ('"parent": "x"', '"parent": null'):
        path.write_text(text.replace('"parent": 1', bad))
        assert said(ChatStore().load(saved.id)) == ["q", "b"]
        assert ChatStore().load(saved.id).versions == ()


def test_a_circle_of_versions_ends(chat):
    one, two = Message("user", "1", id=2), Message("user", "2", id=3)
    circle = replace(chat, versions=(Version(0, one), Version(2, two), Version(3, one)))
    assert said(circle.turned(0, -1)) == ["1", "2", "1"]


# --- Tags.


def test_a_tag_is_one_word_and_is_there_once():
    chat = Chat("ab" * 16).tagged("  #Work, deep  learning ,work").tagged("WORK")
    assert chat.tags == ("Work", "deep-learning")
    assert chat.untagged("work").tags == ("deep-learning",)
    assert chat.untagged("none of these") == chat


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" # ", "empty; write"),
        ("a,,b", "empty; write"),
        ("\u202e\0", "empty; write"),
        ("x" * 25, "at most 24"),
        ("half \udcff", "The tag is not UTF-8"),
        (",".join("abcdefghi"), "at most 8 tags; take"),
    ],
)
def test_what_is_no_tag_is_one_sentence(text, words):
    with pytest.raises(T2LocalError, match=words):
        Chat("ab" * 16).tagged(text)


def test_what_a_tag_is_made_of_stays_when_it_is_read_again():
    for tag in Chat("ab" * 16).tagged("Äther, a\tb, ##x, \u200b1 2").tags:
        assert Chat("ab" * 16).tagged(tag).tags == (tag,)
        assert not set(tag) & set(" \t#,\u200b")
