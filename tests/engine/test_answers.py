import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from t2local.engine.answers import Asked, answer, carry_on, preview
from t2local.engine.requests import Controls, Sampling
from t2local.errors import T2LocalError
from t2local.progress import ENDED, CancelToken
from t2local.svf import Mixture
from tests.ui.fake_engine import SAID, FakeEngine

ASKED = Asked(Controls(), Sampling())


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine(delay_s=0.0)


def answered(fake, text="seven spiders", asked=ASKED, chat=None):
    chat = (chat or fake.chats.new()).ask(text)
    return list(answer(fake, chat, asked))[-1].chat


def test_an_answer_is_saved_with_its_decision(fake):
    chat = answered(fake)
    kept = fake.chats.load(chat.id)
    assert kept.messages == chat.messages
    assert kept.last_answer.content == SAID
    assert kept.last_answer.dispatch["chosen"] == "math"
    assert kept.last_answer.timing["finish"] == "stop"


def test_the_question_is_on_disk_before_the_first_word(fake):
    chat = fake.chats.new().ask("seven spiders")
    stream = answer(fake, chat, ASKED)
    next(stream)
    assert fake.chats.load(chat.id).messages == chat.messages


def test_whoever_drives_it_may_drop_it_and_the_partial_answer_is_kept(fake):
    chat = fake.chats.new().ask("seven spiders")
    stream = answer(fake, chat, ASKED)
    for _ in range(8):
        last = next(stream)
    stream.close()
    kept = fake.chats.load(chat.id).last_answer
    assert kept.content == last.chat.last_answer.content != ""
    assert kept.timing["finish"] == "cut-off", "it says how far it came"
    assert kept.timing["tokens"] == 6
    with fake.chats.claim(chat.id, 0.01):
        pass


def test_stop_keeps_what_was_said(fake):
    chat, cancel = fake.chats.new().ask("seven spiders"), CancelToken()
    for live in answer(fake, chat, ASKED, cancel):
        if live.chat.last_answer and live.chat.last_answer.content:
            cancel.cancel()
    kept = fake.chats.load(chat.id).last_answer
    assert kept.timing["finish"] == "cancelled"
    assert SAID.startswith(kept.content)


def test_an_engine_error_leaves_the_question(fake):
    chat = fake.chats.new().ask("unanswerable")
    with pytest.raises(T2LocalError, match="refused"):
        list(answer(fake, chat, ASKED))
    assert [m.role for m in fake.chats.load(chat.id).messages] == ["user"]


def test_an_override_keeps_what_pass_one_said(fake):
    chat = answered(fake)
    asked = Asked(Controls(override="code"), Sampling())
    again = list(answer(fake, chat, asked))[-1].chat
    dispatch = again.last_answer.dispatch
    assert len(again.messages) == 2
    assert dispatch["override"] == "code"
    assert dispatch["alpha"] == {"code": 1.0}
    assert dispatch["probabilities"] == chat.last_answer.dispatch["probabilities"]
    assert dispatch["strategy"] == "classifier"


def test_continuing_appends_to_the_answer(fake):
    chat = answered(fake)
    more = list(carry_on(fake, chat, ASKED))[-1].chat
    assert more.last_answer.content == SAID + SAID
    request = fake.requests[-1][1]
    assert request.continue_last
    assert request.controls.mixture.alpha == chat.last_answer.dispatch["alpha"]
    assert more.last_answer.dispatch == chat.last_answer.dispatch, "the card stays as it was"
    assert more.controls["strategy"] == "classifier", "and so do the settings"
    with pytest.raises(T2LocalError, match="no answer to continue"):
        list(carry_on(fake, fake.chats.new(), ASKED))


def test_comparing_fills_both_answers(fake):
    chat = answered(fake, asked=Asked(Controls(), Sampling(), compare=True))
    assert chat.last_answer.base_content == SAID.upper()


def test_the_system_prompt_is_sent_and_kept(fake):
    chat = answered(fake, asked=Asked(Controls(), Sampling(), "Be short."))
    assert fake.requests[-1][1].messages[0] == {"role": "system", "content": "Be short."}
    assert fake.chats.load(chat.id).system_prompt == "Be short."


def test_marks_count_characters_of_the_whole_answer(fake):
    chat = answered(fake)
    stream = carry_on(fake, chat, ASKED)
    for _ in range(4):
        next(stream)
    fake.steer(chat.id, Controls().mixture.with_alpha({"math": -1.0}))
    ((at, mixture),) = list(stream)[-1].chat.last_answer.steered
    assert at > len(SAID)
    assert mixture["alpha"] == {"math": -1.0}


def test_preview_asks_about_the_draft_or_the_last_question(fake):
    chat = answered(fake)
    assert preview(fake.chats.new(), " ", (), ASKED, sees=False) is None
    assert preview(chat, "", (), ASKED, sees=False).messages[-1]["content"] == "seven spiders"
    assert preview(chat, "and 8?", (), ASKED, sees=False).messages[-1]["content"] == "and 8?"
    seen = preview(chat, "and this?", [__file__], ASKED, sees=True)
    assert seen.messages[-1]["images"] == [__file__]


# --- As jobs of a real engine, on the two-layer random model.

MATH, CODE = Mixture({"math": 1.0}), Mixture({"code": 1.0})


@pytest.fixture
def unending(monkeypatch):
    """Answers have all their tokens: the random model is not to end them by chance."""
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())


def asked(tokens=12, mixture=MATH, **options):
    sampling = Sampling(temperature=0.0, max_new_tokens=tokens, repetition_penalty=1.0)
    return Asked(Controls("manual", mixture=mixture), sampling, **options)


def begun(engine, how, text="What is 2 + 2?"):
    """A chat whose answer is at work and has said something."""
    chat = engine.chats.new().ask(text)
    engine.answers.start(chat, how)
    for live in engine.answers.follow(chat.id):
        if live.chat.last_answer and live.chat.last_answer.content:
            return live.chat


def over(engine, chat):
    """The chat as it is on disk once its answer is over."""
    assert engine.jobs.wait(f"answer-{chat.id}", 30).stage in ENDED
    assert engine.answers.running(chat.id) is None
    assert chat.id not in engine.answers.chats()
    with engine.chats.claim(chat.id, 0.01):
        return engine.chats.load(chat.id)


@pytest.mark.usefixtures("unending")
def test_an_answer_is_whole_when_its_follower_goes_away(engine):
    whole = list(answer(engine, engine.chats.new().ask("What is 2 + 2?"), asked()))[-1].chat
    chat = engine.chats.new().ask("What is 2 + 2?")
    engine.answers.start(chat, asked())
    following = engine.answers.follow(chat.id)
    next(following)
    following.close()
    kept = over(engine, chat).last_answer
    assert kept.content == whole.last_answer.content
    assert kept.timing["finish"] == "length"
    assert kept.timing["tokens"] == 12


@pytest.mark.usefixtures("unending")
def test_two_followers_see_the_same_end_and_one_that_comes_late_all_so_far(engine):
    chat = begun(engine, asked(60))
    late = next(engine.answers.follow(chat.id)).chat.last_answer.content
    assert late.startswith(chat.last_answer.content)
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: list(engine.answers.follow(chat.id))[-1].chat, range(2)))
    assert ends[0].messages == ends[1].messages == over(engine, chat).messages
    assert ends[0].last_answer.timing["tokens"] == 60


@pytest.mark.usefixtures("unending")
def test_any_tab_stops_it_and_all_see_what_was_said(engine):
    chat = begun(engine, asked(2000))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: list(engine.answers.follow(chat.id))[-1])
        assert engine.answers.chats() == (chat.id,)
        engine.answers.stop(chat.id)
        end = other.result(timeout=30).chat
    kept = over(engine, chat)
    assert kept.messages == end.messages
    assert kept.last_answer.timing["finish"] == "cancelled"
    assert kept.last_answer.content.startswith(chat.last_answer.content)
    engine.answers.stop(chat.id)  # the click came late
    assert over(engine, chat) == kept


@pytest.mark.parametrize("begun_before", [False, True])
def test_an_answer_that_is_stopped_at_once_leaves_the_question_and_can_be_retried(
    engine, begun_before
):
    chat = engine.chats.new().ask("What is 2 + 2?")
    if begun_before:
        engine.answers.start(chat, asked(2000))
        engine.answers.stop(chat.id)
    else:
        with engine.jobs._changed:  # its worker cannot take it up meanwhile
            engine.answers.start(chat, asked(2000))
            engine.answers.stop(chat.id)
    stopped = over(engine, chat)
    assert stopped.messages[0] == chat.messages[0]
    engine.answers.start(stopped, asked(3))
    assert over(engine, chat).last_answer.timing["finish"] in ("length", "stop")


@pytest.mark.usefixtures("unending")
def test_the_wheel_is_the_chats_and_reaches_its_answer_alone(engine):
    one, two = begun(engine, asked(100)), begun(engine, asked(100))
    engine.steer(one.id, CODE)
    marks = [[mixture["alpha"] for _, mixture in over(engine, chat).last_answer.steered]
             for chat in (one, two)]  # fmt: skip
    assert marks == [[{"code": 1.0}], []]
    assert engine.answers.latest(one.id) is None
    last = list(engine.answers.follow(one.id))[-1]
    assert last.mixture == CODE


@pytest.mark.usefixtures("unending")
def test_another_model_ends_it_and_it_keeps_what_it_said(engine, tiny_folder):
    chat = begun(engine, asked(2000))
    engine.switch(str(tiny_folder("qwen2")))
    kept = over(engine, chat).last_answer
    assert kept.timing["finish"] == "cancelled"
    assert kept.content.startswith(chat.last_answer.content)
    deadline = time.monotonic() + 30
    while not engine.status.ready:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert engine.status.model_name == "tiny-qwen2"
    engine.answers.start(engine.chats.load(chat.id), asked(3, Mixture()))
    assert over(engine, chat).last_answer.timing["tokens"] == 3


def test_a_failure_is_told_to_each_follower_and_can_be_retried(engine):
    chat = engine.chats.new().ask("What is 2 + 2?")
    engine.answers.start(chat, asked(3, Mixture({"maths": 1.0})))
    for _ in range(2):
        with pytest.raises(T2LocalError, match="no expert 'maths'"):
            list(engine.answers.follow(chat.id))
    assert [m.role for m in over(engine, chat).messages] == ["user"]
    engine.answers.start(chat, asked(3))
    assert list(engine.answers.follow(chat.id))[-1].chat.last_answer.content
    assert len(over(engine, chat).messages) == 2


@pytest.mark.usefixtures("unending")
def test_eight_chats_at_once_are_all_answered_in_turns(engine):
    begun(engine, asked(2))  # what is made once is made
    together, first, last = threading.Barrier(8), {}, {}

    def one(number):
        chat = engine.chats.new().ask(f"What is {number} + 2?")
        together.wait(30)
        engine.answers.start(chat, asked(160, MATH if number % 2 else CODE))
        for live in engine.answers.follow(chat.id):
            if live.chat.last_answer and live.chat.last_answer.content:
                first.setdefault(number, time.monotonic())
        last[number] = time.monotonic()
        return over(engine, chat)

    with ThreadPoolExecutor(8) as pool:
        chats = list(pool.map(one, range(8)))
    assert [c.last_answer.timing["tokens"] for c in chats] == [160] * 8
    assert max(first.values()) < min(last.values()), "all had begun before the first was through"


@pytest.mark.usefixtures("unending")
def test_a_chat_has_one_answer_at_a_time(engine):
    chat = begun(engine, asked(2000))
    with pytest.raises(T2LocalError, match="being answered; wait until that is done, stop it"):
        engine.answers.start(chat, asked(3))
    engine.answers.stop(chat.id)
    engine.answers.settle(chat.id)
    engine.answers.start(over(engine, chat), asked(3))
    assert over(engine, chat).last_answer.timing["tokens"] == 3


@pytest.mark.usefixtures("unending")
def test_of_many_tabs_that_ask_at_once_one_is_heard(engine):
    chat, refused = engine.chats.new().ask("What is 2 + 2?"), []

    def tab(number):
        try:
            engine.answers.start(chat, asked(200))
        except T2LocalError as error:
            refused.append(str(error))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tab, range(8)))
    assert len(refused) == 7
    assert over(engine, chat).last_answer.timing["tokens"] == 200


@pytest.mark.usefixtures("unending")
def test_a_follower_may_leave_while_nothing_is_said(engine):
    lock = engine._trained_model()[1].lock
    chat = engine.chats.new().ask("What is 2 + 2?")
    with lock:  # as a long training step would
        engine.answers.start(chat, asked(3))
        following = engine.answers.follow(chat.id, beat_s=0.01)
        assert any(live is None for live in following)
        following.close()
    assert over(engine, chat).last_answer.timing["tokens"] == 3
