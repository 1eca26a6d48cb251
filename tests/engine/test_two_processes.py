"""Two programs on one home: nothing that either of them was told is saved gets lost."""

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from t2local import paths
from t2local.engine.answers import Asked, answer
from t2local.engine.chat_content import Message
from t2local.engine.chats import ChatStore, Diverged
from t2local.engine.engine import Engine
from t2local.engine.job_record import DOWNLOAD, ELSEWHERE, Record, new_id
from t2local.engine.jobs import Jobs, Work
from t2local.engine.requests import Controls, Sampling
from t2local.engine.training import Training
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore, Library
from t2local.experts import library as libraries
from t2local.locks import FRESH_S, Neighbours
from t2local.models.load.loader import model_slug
from t2local.progress import FINISHED, INTERRUPTED, Progress
from t2local.training.runner import adopted, running
from t2local.training.runs import Plan, Run
from tests.test_locks import announced, another_process, hold, pytestmark  # noqa: F401
from tests.ui.fake_engine import FakeEngine

WRITERS, MESSAGES = 3, 12


# --- chats


def chat_lock(chat_id):
    return ChatStore().folder / ".locks" / f"{chat_id}.lock"


def test_a_chat_that_another_process_writes_is_refused_until_that_is_over(home):
    store = ChatStore()
    chat = store.save(store.new().ask("a question"))
    with another_process(hold, chat_lock(chat.id)):
        with pytest.raises(T2LocalError, match="by another t2local"), store.claim(chat.id, 0.05):
            pass
        for refused in (store.delete, lambda id: store.rename(id, "mine")):
            with pytest.raises(T2LocalError, match="by another t2local"):
                refused(chat.id)
    store.rename(chat.id, "mine")
    assert store.load(chat.id).title == "mine", "the other was killed, and blocks nobody"


def append(chat_id, writer, acknowledged):
    """Ask again and again, as a page does: from the chat as it is on disk, or not at all."""
    store = ChatStore()
    for number in range(MESSAGES):
        text = f"writer {writer}, message {number}"
        while True:
            chat = store.load(chat_id).ask(text)
            try:
                with store.claim(chat_id, 30.0):
                    store.save(chat)
            except Diverged:
                continue
            acknowledged.put(text)
            break


def test_no_message_of_several_processes_is_lost(home):
    fork, store = multiprocessing.get_context("fork"), ChatStore()
    chat = store.save(store.new().ask("first"))
    acknowledged = fork.Queue()
    writers = [
        fork.Process(target=append, args=(chat.id, number, acknowledged))
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    told = {acknowledged.get(timeout=60) for _ in range(WRITERS * MESSAGES)}
    for writer in writers:
        writer.join()
    assert {message.content for message in store.load(chat.id).messages} == told | {"first"}


def test_a_copy_from_before_is_not_saved_over_what_came_since(home):
    mine, theirs = ChatStore(), ChatStore()
    chat = mine.save(mine.new().ask("first"))
    theirs.save(theirs.load(chat.id).ask("theirs"))
    with pytest.raises(Diverged, match="continued elsewhere"):
        mine.save(chat.ask("mine"))
    assert [m.content for m in mine.load(chat.id).messages] == ["first", "theirs"]
    longer = theirs.load(chat.id).ask("both")
    assert mine.save(longer).messages == longer.messages, "nothing is missing in this one"


def test_a_title_that_was_given_meanwhile_stays(home):
    mine, theirs = ChatStore(), ChatStore()
    chat = mine.save(mine.new().ask("first"))
    for store in (theirs, mine):
        store.rename(chat.id, "given")
        chat = mine.save(replace(chat, title="first"))
        assert chat.title == "given"


def test_an_answer_whose_chat_was_written_over_is_kept_as_a_copy(home):
    """By a program that asks for no lock, such as one that copies a saved home back."""
    engine = FakeEngine(delay_s=0.0)
    stream = answer(engine, engine.chats.new().ask("spiders"), Asked(Controls(), Sampling()))
    chat = [next(stream) for _ in range(6)][-1].chat
    theirs = replace(chat, messages=(Message("user", "theirs"),), updated=1.0)
    ChatStore(paths.home() / "saved").save(theirs)
    saved = paths.home() / "saved" / f"{chat.id}.json"
    saved.replace(engine.chats.folder / saved.name)
    with pytest.raises(Diverged):
        list(stream)
    kept = {summary.title: engine.chats.load(summary.id) for summary in engine.chats.list()}
    assert kept["spiders"].messages[0].content == "theirs"
    assert kept["spiders (copy)"].last_answer.content.startswith(chat.last_answer.content)


# --- jobs and runs


class Slow(Work):
    kind = DOWNLOAD
    settings: ClassVar = {}

    def run(self, job):
        yield Progress("half", 5, 10)
        while not job.cancel.cancelled:
            yield Progress("half", 5, 10)
            time.sleep(0.005)
        return "done"


def begun(id):
    jobs = Jobs()
    jobs.start(Slow(id, "slow"))
    while jobs.status(id).step == 0:
        time.sleep(0.005)
    return jobs


def test_a_job_of_another_process_is_no_job_that_was_cut_off(home):
    id, jobs = new_id("slow"), Jobs()
    jobs.register(DOWNLOAD, lambda id, settings: Slow(id, "slow"))
    with another_process(begun, id):
        assert (jobs.status(id).stage, jobs.status(id).message) == (INTERRUPTED, ELSEWHERE)
        with pytest.raises(T2LocalError, match="at work in another t2local"):
            jobs.resume(id)
        assert jobs.history()[0].message == ELSEWHERE
    assert jobs.status(id).message.startswith("Cut off")
    jobs.resume(id)
    jobs.stop(id)
    assert jobs.wait(id, 10).stage in (FINISHED, INTERRUPTED)
    assert not Record.of(id).lock.taken


@pytest.fixture
def slow_end(monkeypatch):
    """How a job ended is written once this event is set."""
    may_write, write = threading.Event(), Record.write

    def slowly(self, status, settings):
        if not status.live:
            assert may_write.wait(20)
        write(self, status, settings)

    monkeypatch.setattr(Record, "write", slowly)
    yield may_write
    may_write.set()


class Breaks(Slow):
    def run(self, job):
        raise T2LocalError("It broke.")
        yield


def broken_but_not_recorded():
    jobs, id = Jobs(), new_id("slow")
    jobs.register(DOWNLOAD, lambda id, settings: Slow(id, "slow"))
    jobs.start(Breaks(id, "slow"))
    while jobs.status(id).live:
        time.sleep(0.005)
    return jobs, id


def test_a_job_whose_end_is_still_being_written_is_taken_up_once_it_is(home, slow_end):
    jobs, id = broken_but_not_recorded()
    later = threading.Timer(0.6, slow_end.set)  # longer than one waits for another process
    later.start()
    jobs.resume(id)
    assert slow_end.is_set()
    assert jobs.status(id).live
    jobs.stop(id)
    jobs.wait(id, 10)


def test_a_job_that_does_not_leave_is_not_said_to_be_at_work_elsewhere(home, slow_end, monkeypatch):
    monkeypatch.setattr("t2local.engine.jobs.LEAVES_S", 0.05)
    jobs, id = broken_but_not_recorded()
    with pytest.raises(T2LocalError, match="still in its last step"):
        jobs.resume(id)
    slow_end.set()
    jobs.wait(id, 10)


def test_how_far_a_job_is_stands_on_disk_while_it_runs(home, monkeypatch):
    monkeypatch.setattr("t2local.engine.jobs.RECORD_EVERY_S", 0.02)
    id = new_id("slow")
    with another_process(begun, id):
        time.sleep(0.2)
    status = Jobs().status(id)
    assert (status.step, status.steps) == (5, 10)


def test_a_waiting_job_that_was_stopped_and_resumed_is_not_recorded_as_stopped(home):
    jobs, first, second = Jobs(), new_id("first"), new_id("second")
    jobs.register(DOWNLOAD, lambda id, settings: Slow(id, "slow", lane="one"))
    jobs.start(Slow(first, "slow", lane="one"))
    jobs.start(Slow(second, "slow", lane="one"))
    jobs.stop(second)
    assert Record.of(second).read()[0].message == "Stopped."
    jobs.resume(second)
    jobs.stop(first)
    while jobs.status(second).step == 0:
        time.sleep(0.005)
    assert Record.of(second).read()[0].message == ELSEWHERE, "its record is of the one at work"
    jobs.stop(second)
    jobs.wait(second, 10)


def test_a_run_that_another_process_drives_is_left_alone(home):
    run = Run.create(Plan("red", "nothing.csv", "choice"))
    jobs, loaded = Jobs(), SimpleNamespace(slug=model_slug("embedded"))
    Training(jobs, lambda: (loaded, None), print)
    with another_process(hold, run.lock):
        assert jobs.status(run.name).message == ELSEWHERE
        with pytest.raises(T2LocalError, match="another t2local"):
            jobs.resume(run.name)
        with pytest.raises(T2LocalError, match="at work in another t2local"):
            next(running(run, None, None, print))
    assert jobs.status(run.name).message.startswith("Cut off")


# --- experts


def saved(store, name):
    store.save(Expert(name, "tiny", "fingerprint", {"m": torch.ones(2)}))


@pytest.fixture
def slow_look(monkeypatch):
    """Between the look at which names are free and the file, everybody has time to look too."""
    check = libraries.check_free

    def slowly(*args):
        found = check(*args)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(libraries, "check_free", slowly)


def at_once(*acts):
    """What each act gave, or the error that it raised."""

    def told(act):
        try:
            return act()
        except T2LocalError as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(told, acts))


def test_of_two_experts_that_get_one_name_at_once_none_is_lost(home, slow_look):
    """Two `Library` objects share nothing but the folder, as two processes do."""
    for name in ("one", "two"):
        saved(Library("tiny"), name)
    told = at_once(
        *(lambda name=name: Library("tiny").rename(name, "x") for name in ("one", "two"))
    )
    assert sum(isinstance(result, T2LocalError) for result in told) == 1
    assert len(Library("tiny").files()) == 2
    assert "x" in Library("tiny").names()


def test_two_runs_that_end_at_once_leave_two_experts(home):
    def adopt(expert):
        time.sleep(0.1)
        ExpertStore("tiny").save(expert)

    expert = Expert("red", "tiny", "fingerprint", {"m": torch.ones(2)})
    kept = at_once(*(lambda run=run: adopted(expert, run, "tiny", adopt) for run in ("a", "b")))
    assert {each.name for each in kept} == {"red", "red-2"}
    assert len(ExpertStore("tiny").files()) == 2
    assert adopted(expert, "b", "tiny", adopt).name in ("red", "red-2"), "it replaces its own"
    assert len(ExpertStore("tiny").files()) == 2


def test_an_expert_is_not_looked_for_while_another_process_changes_them(home):
    saved(Library("tiny"), "one")
    lock = Library("tiny").own_folder / ".lock"
    with another_process(hold, lock):
        waiting = threading.Thread(target=Library("tiny").rename, args=("one", "two"))
        waiting.start()
        time.sleep(0.2)
        assert Library("tiny").names() == {"one"}
    waiting.join(10)
    assert Library("tiny").names() == {"two"}


# --- programs


def test_the_engine_tells_of_another_program_and_tidies_up_at_its_start(home, monkeypatch):
    engine = Engine("embedded")
    monkeypatch.setattr(engine.models, "start", lambda: None)
    left = paths.part_beside(home / "chats" / "one.json")
    left.parent.mkdir(parents=True)
    left = left.with_name(left.name.replace(left.name.split("-")[2].partition(".")[0], "1"))
    left.touch()
    with another_process(announced) as pid:
        engine.start()
        assert f"process {pid}" in engine.status.beside
        assert len(Neighbours().found()) == 1, "itself is no other"
    assert not left.exists()
    time.sleep(FRESH_S)
    assert engine.status.beside == ""


def overwrite(path, letter):
    while True:
        with paths.atomic_write(path) as temporary:
            temporary.write_text(letter * 100_000)


def test_of_several_who_write_one_file_at_once_one_wins_whole(home):
    """Settings, a basis, a kept mixture: whatever has one name for all."""
    fork, path = multiprocessing.get_context("fork"), home / "model.json"
    writers = [fork.Process(target=overwrite, args=(path, letter)) for letter in "abc"]
    for writer in writers:
        writer.start()
    try:
        while not path.exists():
            time.sleep(0.005)
        found = [path.read_text() for _ in range(200)]
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert all(text == text[0] * 100_000 for text in (*found, path.read_text()))
    paths.tidy_home()
    assert [each.name for each in home.iterdir()] == ["model.json"]
