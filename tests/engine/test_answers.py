import pytest

from t2local.engine import answers as turns
from t2local.engine.answers import Asked
from t2local.engine.requests import Controls, Sampling
from t2local.errors import T2LocalError
from tests.ui.fake_engine import SAID, FakeEngine

ASKED = Asked(Controls(), Sampling())


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(delay_s=0.0)


def answered(engine, text="seven spiders", asked=ASKED, chat=None):
    chat = (chat or engine.chats.new()).ask(text)
    return list(turns.answer(engine, "tab", chat, asked))[-1].chat


def test_an_answer_is_saved_with_its_decision(engine):
    chat = answered(engine)
    kept = engine.chats.load(chat.id)
    assert kept.messages == chat.messages
    assert kept.last_answer.content == SAID
    assert kept.last_answer.dispatch["chosen"] == "math"
    assert kept.last_answer.timing["finish"] == "stop"


def test_the_question_is_on_disk_before_the_first_word(engine):
    chat = engine.chats.new().ask("seven spiders")
    stream = turns.answer(engine, "tab", chat, ASKED)
    next(stream)
    assert engine.chats.load(chat.id).messages == chat.messages


def test_a_page_that_goes_away_keeps_the_partial_answer(engine):
    chat = engine.chats.new().ask("seven spiders")
    stream = turns.answer(engine, "tab", chat, ASKED)
    for _ in range(8):
        last = next(stream)
    stream.close()
    kept = engine.chats.load(chat.id).last_answer
    assert kept.content == last.chat.last_answer.content != ""
    with engine.chats.claim(chat.id, 0.01):
        pass


def test_stop_keeps_what_was_said(engine):
    chat = engine.chats.new().ask("seven spiders")
    for live in turns.answer(engine, "tab", chat, ASKED):
        if live.chat.last_answer and live.chat.last_answer.content:
            engine.stop("tab")
    kept = engine.chats.load(chat.id).last_answer
    assert kept.timing["finish"] == "cancelled"
    assert SAID.startswith(kept.content)


def test_an_engine_error_leaves_the_question(engine):
    chat = engine.chats.new().ask("unanswerable")
    with pytest.raises(T2LocalError, match="refused"):
        list(turns.answer(engine, "tab", chat, ASKED))
    assert [m.role for m in engine.chats.load(chat.id).messages] == ["user"]


def test_an_override_keeps_what_pass_one_said(engine):
    chat = answered(engine)
    asked = Asked(Controls(override="code"), Sampling())
    again = list(turns.answer(engine, "tab", chat, asked))[-1].chat
    dispatch = again.last_answer.dispatch
    assert len(again.messages) == 2
    assert dispatch["override"] == "code"
    assert dispatch["alpha"] == {"code": 1.0}
    assert dispatch["probabilities"] == chat.last_answer.dispatch["probabilities"]
    assert dispatch["strategy"] == "classifier"


def test_continuing_appends_to_the_answer(engine):
    chat = answered(engine)
    more = list(turns.carry_on(engine, "tab", chat, ASKED))[-1].chat
    assert more.last_answer.content == SAID + SAID
    request = engine.requests[-1][1]
    assert request.continue_last
    assert request.controls.mixture.alpha == chat.last_answer.dispatch["alpha"]
    assert more.last_answer.dispatch == chat.last_answer.dispatch, "the card stays as it was"
    assert more.controls["strategy"] == "classifier", "and so do the settings"
    with pytest.raises(T2LocalError, match="no answer to continue"):
        list(turns.carry_on(engine, "tab", engine.chats.new(), ASKED))


def test_comparing_fills_both_answers(engine):
    chat = answered(engine, asked=Asked(Controls(), Sampling(), compare=True))
    assert chat.last_answer.base_content == SAID.upper()


def test_the_system_prompt_is_sent_and_kept(engine):
    chat = answered(engine, asked=Asked(Controls(), Sampling(), "Be short."))
    assert engine.requests[-1][1].messages[0] == {"role": "system", "content": "Be short."}
    assert engine.chats.load(chat.id).system_prompt == "Be short."


def test_marks_count_characters_of_the_whole_answer(engine):
    chat = answered(engine)
    stream = turns.carry_on(engine, "tab", chat, ASKED)
    for _ in range(4):
        next(stream)
    engine.steer("tab", Controls().mixture.with_alpha({"math": -1.0}))
    ((at, mixture),) = list(stream)[-1].chat.last_answer.steered
    assert at > len(SAID)
    assert mixture["alpha"] == {"math": -1.0}


def test_preview_asks_about_the_draft_or_the_last_question(engine):
    chat = answered(engine)
    assert turns.preview(engine.chats.new(), " ", (), ASKED, sees=False) is None
    assert turns.preview(chat, "", (), ASKED, sees=False).messages[-1]["content"] == "seven spiders"
    assert turns.preview(chat, "and 8?", (), ASKED, sees=False).messages[-1]["content"] == "and 8?"
    seen = turns.preview(chat, "and this?", [__file__], ASKED, sees=True)
    assert seen.messages[-1]["images"] == [__file__]
