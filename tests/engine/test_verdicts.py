"""What a person thought of answers is on disk, once, and says what it said."""

import json
from dataclasses import replace

import pytest

from t2local.engine.chat_content import Chat, Message
from t2local.engine.chats import ChatStore
from t2local.engine.verdicts import DOWN, UP, Verdicts
from t2local.errors import T2LocalError
from tests.pictures import painted

ANSWERED = {"finish": "stop"}


@pytest.fixture
def verdicts(home):
    return Verdicts(ChatStore().folder)


def chat(*said, base=None, system=""):
    """Questions and answers in turn; `base`: what the base model said to the last one."""
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text, timing=ANSWERED) for i, text in enumerate(said)]
    if base is not None:
        messages[-1] = replace(messages[-1], base_content=base)
    return Chat("ab" * 8, messages=tuple(messages), system_prompt=system)


def test_a_thumb_is_a_row_with_all_that_was_asked(verdicts):
    given = verdicts.thumb(chat("Hi", "Hello!", "Bye", "Ciao!", system="Be kind."), 3, UP, "tiny")
    (kept,) = verdicts.all()
    assert kept == given
    assert [(t["role"], t["content"]) for t in kept.turns] == [
        ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"),
    ]  # fmt: skip
    assert (kept.answer, kept.thumb, kept.model, kept.question) == ("Ciao!", UP, "tiny", "Bye")


def test_a_second_verdict_takes_the_firsts_place_and_none_takes_it_back(verdicts):
    talk = chat("Hi", "Hello!")
    verdicts.thumb(talk, 1, UP, "")
    verdicts.thumb(talk, 1, DOWN, "")
    assert [v.thumb for v in verdicts.all()] == [DOWN]
    verdicts.thumb(talk, 1, DOWN, "")
    assert [v.thumb for v in verdicts.all()] == [DOWN], "from a second tab that does not show it"
    verdicts.thumb(talk, 1, "", "")
    assert verdicts.all() == []


def test_one_answer_can_have_a_thumb_and_what_was_wanted(verdicts):
    talk = chat("Hi", "Hello!")
    verdicts.thumb(talk, 1, DOWN, "")
    verdicts.rewrite(talk, 1, " Good day. ", "")
    (kept,) = verdicts.all()
    assert (kept.thumb, kept.wanted, kept.answer) == (DOWN, "Good day.", "Hello!")


@pytest.mark.parametrize("nothing", ["", "  ", "Hello!", " Hello! "])
def test_writing_nothing_new_takes_back_what_was_written(verdicts, nothing):
    talk = chat("Hi", "Hello!")
    verdicts.rewrite(talk, 1, "Good day.", "")
    assert not verdicts.rewrite(talk, 1, nothing, "").says
    assert verdicts.all() == []


def test_what_was_thought_before_an_answer_is_not_judged(verdicts):
    talk = chat("Hi", "<think>a greeting</think>Hello!")
    assert verdicts.thumb(talk, 1, UP, "").answer == "Hello!"


def test_the_same_answer_to_another_question_is_another_row(verdicts):
    verdicts.thumb(chat("Hi", "Hello!"), 1, UP, "")
    verdicts.thumb(chat("Good morning", "Hello!"), 1, UP, "")
    assert len(verdicts.all()) == 2


def test_another_system_prompt_does_not_make_another_row(verdicts):
    verdicts.thumb(chat("Hi", "Hello!"), 1, UP, "")
    verdicts.thumb(chat("Hi", "Hello!", system="Be kind."), 1, DOWN, "")
    assert [v.thumb for v in verdicts.all()] == [DOWN]


def test_an_answer_that_was_written_over_keeps_its_verdict_and_those_after_it(verdicts):
    talk = chat("Hi", "Hello!", "Bye", "Ciao!")
    verdicts.thumb(talk, 3, UP, "")
    verdicts.rewrite(talk, 1, "Good day.", "")
    rewritten = talk.rewrite(1, "Good day.")
    assert rewritten.messages[1].content == "Good day."
    shown = verdicts.of(rewritten)
    assert (shown[1].wanted, shown[3].thumb) == ("Good day.", UP)
    assert rewritten.rewrite(1, "").messages[1] == talk.messages[1], "and back"


def test_the_better_of_two(verdicts):
    talk = chat("Hi", "Hello!", base="Go away.")
    verdicts.prefer(talk, 1, base=False, model="")
    (kept,) = verdicts.all()
    assert (kept.answer, kept.over) == ("Hello!", "Go away.")
    verdicts.prefer(talk, 1, base=True, model="")
    (kept,) = verdicts.all()
    assert (kept.answer, kept.over) == ("Go away.", "Hello!")
    verdicts.prefer(talk, 1, base=True, model="")
    assert [v.over for v in verdicts.all()] == ["Hello!"], "from a second tab"
    verdicts.prefer(talk, 1, base=None, model="")
    assert verdicts.all() == []


def test_a_preference_and_a_thumb_on_one_answer_are_two_rows_and_both_show(verdicts):
    talk = chat("Hi", "Hello!", base="Go away.")
    verdicts.thumb(talk, 1, UP, "")
    verdicts.prefer(talk, 1, base=True, model="")
    assert len(verdicts.all()) == 2
    shown = verdicts.of(talk)[1]
    assert (shown.thumb, shown.answer, shown.over) == (UP, "Go away.", "Hello!")


def test_of_two_equal_answers_neither_is_better(verdicts):
    with pytest.raises(T2LocalError, match="the same"):
        verdicts.prefer(chat("Hi", "Hello!", base="Hello! "), 1, base=True, model="")
    assert verdicts.all() == []


def test_asking_again_notes_the_answer_that_was_not_wanted(verdicts):
    verdicts.again(chat("Hi", "Hello!"), "")
    (kept,) = verdicts.all()
    assert (kept.again, kept.thumb, kept.answer) == (True, "", "Hello!")


def test_asking_again_after_nothing_was_said_notes_nothing(verdicts):
    verdicts.again(chat("Hi"), "")
    verdicts.again(chat("Hi", ""), "")
    verdicts.again(Chat("ab" * 8), "")
    assert verdicts.all() == []


def test_pictures_are_kept_with_the_verdict(verdicts, tmp_path):
    store = ChatStore()
    shown = store.keep_pictures("ab" * 8, [painted(tmp_path, "red")])
    talk = chat("What colour?", "Red.")
    talk = replace(talk, messages=(replace(talk.messages[0], images=shown), talk.messages[1]))
    verdicts.thumb(talk, 1, UP, "")
    store.delete(talk.id)
    (kept,) = verdicts.all()
    (picture,) = kept.turns[0]["images"]
    assert picture.startswith("data:image/png")


@pytest.mark.parametrize("place", [-1, 0, 2, 99])
def test_there_has_to_be_an_answer(verdicts, place):
    with pytest.raises(T2LocalError, match="no longer there"):
        verdicts.thumb(chat("Hi", "Hello!", "Bye"), place, UP, "")


def test_half_a_character_is_refused_and_the_old_text_stays(verdicts):
    talk = chat("Hi", "Hello!")
    verdicts.rewrite(talk, 1, "Good day.", "")
    with pytest.raises(T2LocalError):
        verdicts.rewrite(talk, 1, "Good \ud800", "")
    assert [v.wanted for v in verdicts.all()] == ["Good day."]


def test_change_drop_forget(verdicts):
    first, second = chat("Hi", "Hello!"), replace(chat("Bye", "Ciao!"), id="cd" * 8)
    id = verdicts.rewrite(first, 1, "Good day.", "").id
    assert verdicts.change(id, "Good evening.").wanted == "Good evening."
    other = verdicts.thumb(second, 1, UP, "").id
    assert verdicts.counts() == {first.id: 1, second.id: 1}
    verdicts.drop(other)
    verdicts.drop(other)  # gone already
    assert [v.id for v in verdicts.all()] == [id]
    verdicts.forget(first.id)
    assert verdicts.all() == []


@pytest.mark.parametrize("id", ["", "x", "../../etc/passwd", "ab" * 8, f"{'ab' * 8}-../x"])
def test_an_id_is_no_path(verdicts, id):
    for act in (verdicts.drop, lambda one: verdicts.change(one, "text")):
        with pytest.raises(T2LocalError, match="no verdict's id"):
            act(id)


def spoilt(content, **changes):
    return json.dumps({**json.loads(content), **changes}).encode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda content: spoilt(content, turns=[]),
        lambda content: spoilt(content, turns=[{"role": "user"}]),
        lambda content: spoilt(
            content, turns=[{"role": "user", "content": "x", "images": ["/etc/passwd"]}]
        ),
        lambda content: spoilt(content, thumb="sideways"),
        lambda content: spoilt(content, id="another"),
        lambda content: spoilt(content, schema=99),
        lambda _: b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_left_told_of_and_does_not_keep_others_away(verdicts, spoil):
    bad = verdicts.thumb(chat("Hi", "Hello!"), 1, UP, "")
    good = verdicts.thumb(chat("Bye", "Ciao!"), 1, UP, "")
    path = verdicts.folder / f"{bad.id}.json"
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    assert verdicts.all() == [good]
    assert list(verdicts.damaged) == [path.name]
    assert verdicts.of(chat("Hi", "Hello!")) == {}
    with pytest.raises(T2LocalError):
        verdicts.thumb(chat("Hi", "Hello!"), 1, DOWN, "")
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_read_can_be_deleted_and_no_other(verdicts):
    verdicts.thumb(chat("Hi", "Hello!"), 1, UP, "")
    (good,) = verdicts.folder.glob("*.json")
    broken = verdicts.folder / "abad-cafe.json"
    broken.write_text("{", encoding="utf-8")
    for name in (good.name, "../x.json", "nothing.json"):
        with pytest.raises(T2LocalError, match="no damaged row"):
            verdicts.discard(name)
    verdicts.discard(broken.name)
    assert not broken.exists()
    assert [v.thumb for v in verdicts.all()] == [UP]
    assert verdicts.damaged == {}
