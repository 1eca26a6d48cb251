"""`kill -9` at twenty random moments of each kind of work: nothing that was told is lost.

A child tells over a pipe what is done, is killed, and the real code opens the home afterwards. One
warmed-up process forks all of them.
"""

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
import uuid
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from t2local import paths
from t2local.adapt.cem import CEMConfig
from t2local.engine import chat_index
from t2local.engine.chat_content import Chat, Message
from t2local.engine.chats import ChatStore
from t2local.engine.evaluations import EvaluationPlan
from t2local.engine.searches import SearchPlan
from t2local.engine.verdicts import Verdict, Verdicts, Vote, pair_id
from t2local.experts import Expert, ExpertStore, Library
from t2local.progress import FINISHED, drain
from t2local.training.runner import adopted

KILLS = 20
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")


@pytest.fixture(autouse=True)
def one_thread():
    """A child of `fork` must not wait for its parent's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def killed(work, longest_s, moments):
    """What a child told that does `work(tell)`, and was killed within `longest_s` of its start."""
    fork = multiprocessing.get_context("fork")
    told, teller = fork.Pipe(duplex=False)
    child = fork.Process(target=_working, args=(work, teller))
    child.start()
    teller.close()
    assert told.recv() == "begun"
    time.sleep(moments.uniform(0.0, longest_s))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    found = []
    with closing(told):
        while True:
            try:
                found.append(told.recv())
            except (EOFError, OSError):
                return found


def _working(work, teller):
    teller.send("begun")
    work(teller.send)


def nothing_is_left_over():
    """Of what was half-written; the next start clears it away."""
    paths.tidy_home()
    return not list(paths.home().rglob("*.part"))


def test_saving_a_chat(home):
    store, moments, told = ChatStore(), random.Random(0), 0
    chat = store.save(store.new().ask("first"))

    def work(tell):
        own = ChatStore()
        while True:
            with own.claim(chat.id):
                asked = own.load(chat.id)
                own.save(asked.ask(f"message {len(asked.messages)}"))
            tell(len(asked.messages))

    for _ in range(KILLS):
        numbers = killed(work, 0.05, moments)
        kept = store.load(chat.id).messages
        assert [m.content for m in kept[1:]] == [f"message {n}" for n in range(1, len(kept))]
        assert max(numbers, default=0) < len(kept)
        assert [one.id for one in store.list()] == [chat.id]
        assert store.damaged == {}
        with store.claim(chat.id, 0.0):
            pass  # the killed one blocks nobody
        told += len(numbers)
    assert told > 2, "they did come to save"
    assert nothing_is_left_over()


def test_adopting_and_renaming_experts(home):
    moments, told, library = random.Random(1), set(), Library("tiny")
    z = {f"layers.{n}": torch.full((64,), 1.5) for n in range(20)}

    def work(tell):
        for number in range(1000):
            expert = Expert("red", "tiny", "fingerprint", z)
            name = adopted(expert, f"run {number}", "tiny", ExpertStore("tiny").save).name
            tell(Library("tiny").rename(name, f"{os.getpid()}-{number}").name)

    for _ in range(KILLS):
        told |= set(killed(work, 0.2, moments))
        files = library.files()
        assert [f.problem for f in files if f.expert is None] == []
        assert told <= {f.expert.name for f in files}
        for file in files:  # or each look reads more of them
            if file.expert.name.startswith("red"):
                library.delete(file.expert.name)
    assert len(told) > 2
    assert nothing_is_left_over()


class OfJob:
    """A job that is begun, killed and taken up again, as by one program after another."""

    def __init__(self, engine, begin):
        self.jobs, self.begin, self.id = engine.jobs, begin, ""

    def work(self, tell):
        if self.id:
            self.jobs.resume(self.id)
        else:
            self.id = self.begin()
            tell(self.id)
        while True:
            tell(self.jobs.status(self.id).step)
            time.sleep(0.001)

    def killed(self, longest_s, moments):
        """The last step that was told."""
        told = killed(self.work, longest_s, moments)
        if not self.id and told:
            self.id = told.pop(0)
        return max(told, default=0)

    def finish(self):
        if self.jobs.status(self.id).stage != FINISHED:
            self.jobs.resume(self.id)
            assert self.jobs.wait(self.id, 60).stage == FINISHED


def test_a_search(engine, tmp_path):
    path = tmp_path / "shots.jsonl"
    rows = [{"prompt": f"{i}?", "answer": "ab"[i % 2], "choices": ["a", "b"]} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = CEMConfig(population=5, generations=25)
    plan = SearchPlan("ab", str(path), "choice", config)
    whole = drain(engine.searches.search(plan.examples(), "choice", config))
    (state,) = (paths.home() / "searches").iterdir()
    state.unlink()
    job = OfJob(engine, lambda: engine.searches.start(plan))
    moments, steps = random.Random(2), set()
    for _ in range(KILLS):
        step = job.killed(0.12, moments)
        if job.id:
            report = engine.searches.report(job.id)
            assert len(report.generations) >= step
            steps.add(step)
    job.finish()
    report = engine.searches.report(job.id)
    assert [g.number for g in report.generations] == list(range(1, 26))
    assert report.found.mixture == whole.mixture
    assert len(steps) > 2, steps
    assert nothing_is_left_over()


def test_an_evaluation(engine, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"thing {i}?", "answer": ("red", "blue")[i % 2]} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    plan = EvaluationPlan((str(path),), ("base", "math"))
    job = OfJob(engine, lambda: engine.evaluations.start(plan))
    moments, kept = random.Random(3), 0
    for _ in range(KILLS):
        step = job.killed(0.06, moments)
        if job.id:
            files = (paths.home() / "evaluations").glob("*.jsonl")
            now = sum(len(file.read_text().split("\n")) - 1 for file in files)
            assert now >= max(kept, step), "what was scored once is not asked again"
            kept = now
            engine.evaluations.report(job.id)
    job.finish()
    results = engine.evaluations.report(job.id).evaluation.results
    assert [(result.strategy, result.n) for result in results] == [("base", 60), ("math", 60)]
    again = drain(engine.evaluations.run(plan)).results
    assert [result.correct for result in again] == [result.correct for result in results]
    assert nothing_is_left_over()


def test_a_migration_of_the_chat_index(home, monkeypatch):
    store, moments, told = ChatStore(), random.Random(4), 0
    for number in range(60):
        saved = store.save(store.new().ask(f"question {number}"))
        os.utime(store.folder / f"{saved.id}.json", (number + 1, number + 1))
    assert len(store.list()) == 60

    def work(tell):
        for version in range(100, 10_000):
            chat_index.VERSION = version  # as in the next version, and the next …
            tell(len(ChatStore().list()))

    for _ in range(KILLS):
        counts = killed(work, 0.1, moments)
        assert set(counts) <= {60}
        assert len(ChatStore().list()) == 60
        with closing(sqlite3.connect(store.folder / chat_index.INDEX)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT count(*) FROM chats").fetchone() == (60,)
        told += len(counts)
    assert told > 2


def blind_pair(talk):
    asked, answer = talk.messages
    battle = uuid.uuid4().hex
    turns = ({"role": asked.role, "content": asked.content},)
    vote = Vote(("base", "mails@12345678"), answer.base_content)
    id = pair_id(battle, (answer.content, answer.base_content))
    return Verdict(id, battle, turns, answer.content, vote=vote)


def test_judging_answers(home):
    """Thumbs, edits and votes: none is lost, and none is there twice."""
    talk = Chat("ab" * 8, messages=(Message("user", "Hi"), Message("assistant", "Hello")))
    chats, moments, told = ChatStore().folder, random.Random(7), {}
    acts = {
        "thumb": lambda own, one: own.thumb(one, 1, "up", ""),
        "edit": lambda own, one: own.rewrite(one, 1, "Good day.", ""),
        "preference": lambda own, one: own.prefer(one, 1, base=True, model=""),
        "vote": lambda own, one: own.cast(own.lay(blind_pair(one)).id, "b"),
    }

    def work(tell):
        own, number = Verdicts(chats), 0
        while True:
            number += 1
            kind = list(acts)[number % len(acts)]
            asked = Message("user", f"{os.getpid()} {number}")
            answer = Message("assistant", "Hello", base_content="Go away")
            verdict = acts[kind](own, replace(talk, messages=(asked, answer)))
            tell((kind, verdict.id))

    for _ in range(KILLS):
        told |= {id: kind for kind, id in killed(work, 0.05, moments)}
        verdicts = Verdicts(chats)
        found = {verdict.id: verdict for verdict in verdicts.all()}
        assert verdicts.damaged == {}
        assert told.keys() <= found.keys(), "all that was told"
        assert len(found) - len(told) <= KILLS, "each at most once more"
        said = {"thumb": "thumb", "edit": "wanted", "preference": "over", "vote": "vote"}
        assert all(getattr(found[id], said[kind]) for id, kind in told.items())
    assert len(told) > 2, "they did come to judge"
    assert nothing_is_left_over()
