"""Runs without a model, told by many threads at once, as from many tabs."""

import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from t2local.engine.jobs import Jobs
from t2local.engine.training import Training
from t2local.errors import T2LocalError
from t2local.models.load.loader import model_slug
from t2local.progress import FAILED, FINISHED, INTERRUPTED, PAUSED, RUNNING, Progress
from t2local.training.runs import Plan, Run
from tests.engine.test_jobs import wait

TABS = 8


@pytest.fixture
def fake(monkeypatch):
    """Runs that take steps until they are stopped; one called "broken" fails at its first."""
    begun, steps = Counter(), Counter()

    def running(run, loaded, svf, adopt, cancel):
        begun[run.name] += 1
        while not cancel.cancelled:
            steps[run.name] += 1
            if "broken" in run.name:
                raise T2LocalError("It broke.")
            yield Progress("at work", steps[run.name], 0)
        return SimpleNamespace(expert=None)

    monkeypatch.setattr("t2local.engine.training.running", running)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns in the middle of everything
    jobs, loaded = Jobs(), SimpleNamespace(slug=model_slug("embedded"))
    Training(jobs, lambda: (loaded, None), print)
    yield SimpleNamespace(jobs=jobs, begun=begun, steps=steps)
    sys.setswitchinterval(before)


def cut_off(name="red"):
    return Run.create(Plan(name, "nothing.csv", "choice")).name


def in_tabs(act):
    """`act(number)` in many threads at once, as from many tabs; raises what any of them did."""
    with ThreadPoolExecutor(TABS) as pool:
        for done in [pool.submit(act, number) for number in range(TABS)]:
            done.result(timeout=60)


def until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_no_pause_and_no_resume_is_lost(fake):
    jobs, name, lost, rounds = fake.jobs, cut_off(), [], 500
    jobs.resume(name)

    def look():
        """Between the pauses of a round and those of the next, while all tabs wait."""
        begun = fake.steps[name]
        if jobs.status(name).stage != PAUSED:
            lost.append(jobs.status(name))
        if begun % 10 == 0:
            time.sleep(0.002)
        if fake.steps[name] > begun + 1:  # the step that it was in is taken to its end
            lost.append(f"{fake.steps[name] - begun} steps while paused")
        begun = fake.steps[name]
        jobs.resume(name)
        until(lambda: fake.steps[name] > begun)

    together = threading.Barrier(TABS, action=look)

    def tab(_):
        for _ in range(rounds):
            jobs.pause(name)
            together.wait(30)

    in_tabs(tab)
    assert not lost, f"{len(lost)} of {TABS * rounds} pauses: {lost[:3]}"
    jobs.stop(name)
    wait(fake, name, FINISHED)


def test_however_they_are_told_runs_begin_once_and_end_for_good(fake):
    jobs = fake.jobs
    names = [cut_off() for _ in range(10)]
    broken = cut_off("broken")
    refused = []

    def resume(name):
        try:
            jobs.resume(name)
        except T2LocalError as error:
            refused.append(str(error))

    def tab(number):
        rng = random.Random(number)
        for name in rng.sample(names, len(names)):
            resume(name)
        for _ in range(800):
            rng.choices((jobs.pause, resume, jobs.stop), (6, 6, 1))[0](rng.choice(names))
            if rng.random() < 0.1:
                jobs.resume(broken)

    in_tabs(tab)
    assert all("is stopping" in said or "is finished" in said for said in refused)
    for name in names:
        jobs.stop(name)
    jobs.resume(broken)
    for name in [*names, broken]:
        wait(fake, name, FINISHED, FAILED, INTERRUPTED, timeout_s=20)
    before = [jobs.status(name) for name in [*names, broken]]
    assert before.pop().stage == FAILED
    ended = {FINISHED: 1, INTERRUPTED: 0}  # stopped before its turn, a run has not begun
    assert {s.id: ended[s.stage] for s in before} == {name: fake.begun[name] for name in names}
    before.append(jobs.status(broken))
    in_tabs(lambda _: [act(name) for name in [*names, broken] for act in (jobs.pause, jobs.stop)])
    assert [jobs.status(name) for name in [*names, broken]] == before
    assert jobs.busy() == []


def test_a_run_that_is_paused_before_its_turn_waits(fake):
    jobs, first, second = fake.jobs, cut_off(), cut_off()
    jobs.resume(first)
    wait(fake, first, RUNNING)
    jobs.resume(second)
    jobs.pause(second)
    jobs.stop(first)
    wait(fake, first, FINISHED)
    time.sleep(0.05)
    assert jobs.status(second).stage == PAUSED
    assert fake.begun[second] == 0
    jobs.resume(second)
    wait(fake, second, RUNNING)
    jobs.stop(second)
    wait(fake, second, FINISHED)


def test_paused_runs_are_left_at_work_or_not_and_can_be_taken_up(fake):
    jobs, first, second = fake.jobs, cut_off(), cut_off()
    jobs.resume(first)
    until(lambda: fake.steps[first])
    jobs.resume(second)
    jobs.pause(first)
    jobs.pause(second)
    started = time.monotonic()
    jobs.let_go(30)
    assert time.monotonic() - started < 10
    assert {jobs.status(name).stage for name in (first, second)} == {INTERRUPTED}
    with pytest.raises(T2LocalError, match="resume it first"):
        jobs.stop(second)
    jobs.resume(second)
    until(lambda: fake.steps[second])
    assert fake.begun == {first: 1, second: 1}
    jobs.stop(second)
    wait(fake, second, FINISHED)
