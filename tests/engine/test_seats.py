"""Two people at one engine: what is shared, what is apart, what only the owner may do."""

import threading
from types import SimpleNamespace

import pytest

from t2local.engine.answers import Asked
from t2local.engine.chats import ChatStore
from t2local.engine.engine import GUEST_MAY, Engine, Seat
from t2local.engine.job_record import DOWNLOAD
from t2local.engine.jobs import Work
from t2local.engine.people import GUEST, OWNER, Account
from t2local.engine.requests import ChatRequest, Controls, Sampling
from t2local.errors import Cancelled, T2LocalError
from t2local.experts.expert import SKILL
from t2local.svf import Mixture
from tests.ui.fake_engine import FakeEngine

ASKED = Asked(Controls(), Sampling())
ANNA, BEN = Account("anna", OWNER, "x"), Account("ben", GUEST, "x")


class Waits(Work):
    """Long work that ends when it is told to."""

    kind = DOWNLOAD

    def run(self, job):
        while not job.cancel.cancelled:
            yield None
            threading.Event().wait(0.01)
        raise Cancelled


def seats(engine, tmp_path, *accounts):
    return [Seat(engine, one, ChatStore(tmp_path / one.folder)) for one in accounts]


@pytest.fixture
def fake(tmp_path):
    """The owner, a guest, and the engine that they share."""
    engine = FakeEngine(delay_s=0.01)
    anna, ben = seats(engine, tmp_path, ANNA, BEN)
    return SimpleNamespace(engine=engine, anna=anna, ben=ben)


@pytest.fixture
def real(engine, tmp_path):
    anna, ben = seats(engine, tmp_path, ANNA, BEN)
    return SimpleNamespace(engine=engine, anna=anna, ben=ben)


def asking(seat, text="very slowly, seven spiders", chat_id=None):
    """A chat with an answer at work."""
    chat = seat.chats.load_or_new(chat_id).ask(text)
    seat.answers.start(chat, ASKED)
    return chat


def done(seat, chat):
    list(seat.answers.follow(chat.id))
    return seat.chats.load(chat.id)


def test_chats_are_apart(fake):
    chat = asking(fake.anna, "seven spiders")
    done(fake.anna, chat)
    assert [one.id for one in fake.anna.chats.list()] == [chat.id]
    assert fake.ben.chats.list() == []
    with pytest.raises(T2LocalError, match="no longer on disk"):
        fake.ben.chats.load(chat.id)


def test_an_id_leads_to_nobody_elses_answer(fake):
    """Somebody who knows another's chat id has a chat of the same id, and nothing more."""
    chat = asking(fake.anna)
    ben, id = fake.ben.answers, chat.id
    assert ben.running(id) is ben.latest(id) is None
    assert ben.chats() == ()
    assert list(ben.follow(id)) == []
    ben.stop(id)
    fake.ben.stop(id)
    fake.ben.steer(id, Mixture({"math": 2.0}))
    own = asking(fake.ben, "code please", id)
    assert fake.anna.answers.running(id)
    assert done(fake.ben, own).last_answer.content
    assert fake.anna.answers.running(id)
    fake.anna.answers.stop(id)
    kept = done(fake.anna, chat)
    assert kept.messages[0].content == chat.messages[0].content
    assert "[math" not in kept.last_answer.content


@pytest.mark.parametrize("crooked", ["b.{}", "-b.{}", "./{}", "", "*"])
def test_no_name_and_id_make_anothers(tmp_path, crooked):
    """`anna` and `anna-b`: an id that a page sends is put behind its own name."""
    engine = FakeEngine(delay_s=0.01)
    both = Account("anna", GUEST, "x"), Account("anna-b", GUEST, "x")
    anna, other = seats(engine, tmp_path, *both)
    chat = asking(other)
    anna.answers.stop(crooked.format(chat.id))
    assert anna.answers.running(crooked.format(chat.id)) is None
    for act in (anna.jobs.stop, anna.jobs.resume):
        with pytest.raises(T2LocalError):
            act(f"answer-anna-b.{chat.id}")
    assert other.answers.running(chat.id)
    other.answers.stop(chat.id)
    done(other, chat)


def test_next_tokens_follow_ones_own_words(real):
    """They are asked after what the chat's running answer said so far."""
    seen = []
    chat = real.anna.chats.new()
    turns = ({"role": "user", "content": "What is 2 + 2?"},)
    question = ChatRequest(turns, Controls(), Sampling(max_new_tokens=12))
    bars = real.engine.models.ready().previews
    bars.bars = lambda workshop, messages, said, mixture, k: seen.append(said)
    for event in real.anna.answer(chat.id, question):
        if type(event).__name__ == "Token":
            real.anna.next_tokens(chat.id, question, Mixture())
            real.ben.next_tokens(chat.id, question, Mixture())
    assert any(seen[::2])
    assert not any(seen[1::2])


# --- Long work


def test_a_guest_sees_and_stops_its_own_answers_alone(fake):
    fake.engine.jobs.start(Waits("a-download", "some/model"))
    hers, his = asking(fake.anna), asking(fake.ben)
    assert [one.name for one in fake.ben.jobs.history()] == [his.title]
    for id in ("a-download", f"answer-anna.{hers.id}", f"answer-{hers.id}", "nothing"):
        for act in (fake.ben.jobs.stop, fake.ben.jobs.resume):
            with pytest.raises(T2LocalError, match="There is no job"):
                act(id)
    assert fake.engine.jobs.status("a-download").live
    fake.ben.jobs.stop(f"answer-ben.{his.id}")
    done(fake.ben, his)
    assert fake.anna.answers.running(hers.id)
    fake.anna.jobs.stop(f"answer-anna.{hers.id}")
    fake.anna.jobs.stop("a-download")
    assert not fake.engine.jobs.wait("a-download", 10).live


def test_an_owner_sees_all_and_of_others_answers_no_word(fake):
    his, hers = asking(fake.ben, "very slowly, my secret"), asking(fake.anna)
    told = {one.id: one for one in fake.anna.jobs.history()}
    assert told[f"answer-ben.{his.id}"].name == "for ben"
    assert told[f"answer-anna.{hers.id}"].name == hers.title
    assert "secret" not in str(told)
    with pytest.raises(T2LocalError) as error:
        fake.anna.jobs.resume(f"answer-ben.{his.id}")
    assert "secret" not in str(error.value)
    fake.anna.jobs.stop(f"answer-ben.{his.id}")
    fake.anna.answers.stop(hers.id)
    done(fake.ben, his)
    done(fake.anna, hers)


# --- Who may do what

ACTS = {
    "switch": lambda seat: seat.switch("embedded"),
    "start": lambda seat: seat.start(),
    "load": lambda seat: seat.load(),
    "adopt": lambda seat: seat.adopt(None),
    "draft": lambda seat: seat.draft("a-run"),
    "restock": lambda seat: seat.restock(),
    "models": lambda seat: seat.models.cancel(),
    "downloads": lambda seat: seat.downloads.start("some/model"),
    "training": lambda seat: seat.training.start("x", "x", "x", "x", None),
    "searches": lambda seat: seat.searches.start(None),
    "evaluations": lambda seat: seat.evaluations.start(None),
    "rename": lambda seat: seat.library.rename("math", "sums"),
    "duplicate": lambda seat: seat.library.duplicate("math"),
    "delete": lambda seat: seat.library.delete("math"),
    "restore": lambda seat: seat.library.restore("math"),
    "import_file": lambda seat: seat.library.import_file("x.safetensors"),
    "jobs": lambda seat: seat.library.model(),
    "uses": lambda seat: seat.uses.of("x"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_guest_is_refused_in_one_sentence_and_nothing_is_done(real, act):
    before = [one.name for one in real.engine.experts()], real.engine.status.serial
    with pytest.raises(T2LocalError, match=r"Only the owner of this t2local can .*; ask them\.$"):
        act(real.ben)
    assert ([one.name for one in real.engine.experts()], real.engine.status.serial) == before


def test_a_guest_is_asked_for_no_votes(real):
    for act in (real.ben.arena.awaited, lambda: real.ben.arena.vote("x", "a")):
        with pytest.raises(T2LocalError, match="Only the owner"):
            act()
    assert real.anna.arena.awaited() is None


def test_all_public_parts_of_the_engine_are_the_owners_or_named(real):
    """What the engine learns later is refused until somebody allows it."""
    own = {"account", "answer", "answers", "chats", "jobs", "next_tokens", "steer", "stop"}
    own |= {"arena", "verdicts", "recipes", "prompts"}
    for name in {name for name in dir(real.engine) if not name.startswith("_")} - own:
        found = getattr(real.anna, name)
        assert found == getattr(real.engine, name), name
        if name in GUEST_MAY:
            getattr(real.ben, name)
        elif not callable(found):
            with pytest.raises(T2LocalError, match="Only the owner"):
                getattr(real.ben, name)
        else:
            with pytest.raises(T2LocalError, match="Only the owner"):
                getattr(real.ben, name)()


def test_an_owner_does_what_a_guest_may_not(real):
    assert real.anna.library.rename("math", "sums") == "sums"
    real.anna.library.delete("sums")
    assert real.anna.library.restore("sums") == "sums"
    assert real.anna.training is real.engine.training


def test_a_guest_chats_steers_and_looks(real, tmp_path):
    ben = real.ben
    assert ben.status == real.engine.status
    assert {one.name for one in ben.experts() if one.kind == SKILL} == {"math", "code"}
    assert ben.strategies() == real.engine.strategies()
    assert set(ben.deltas(Mixture({"math": 1.0}))) == set(ben.matrix_names())
    assert ben.spectrum(ben.matrix_names()[0], Mixture()).sigma
    assert ben.library.share("math", tmp_path).is_file()
    assert ben.library.compare(["math", "code"])
    chat = asking(ben, "seven spiders")
    assert done(ben, chat).last_answer is not None
    assert isinstance(real.engine, Engine)
