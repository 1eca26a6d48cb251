import gc
import json
import time
import weakref

import pytest

from t2local.adapt.dispatch import Dispatched
from t2local.engine.engine import Engine
from t2local.engine.job_record import EVALUATION
from t2local.engine.jobs import Jobs, Work
from t2local.engine.requests import ChatRequest, Controls
from t2local.engine.training import Training
from t2local.errors import DiskFull, T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.progress import FAILED, FINISHED, INTERRUPTED, PAUSED, RUNNING
from t2local.svf import Mixture
from t2local.training.config import TrainConfig
from t2local.training.runs import Plan, Run

QUICK = TrainConfig(
    steps=4, prompts_per_step=4, learning_rate=2e-2, validate_every=2, checkpoint_every=1
)
pytestmark = pytest.mark.usefixtures("no_other_tasks")
ASK = ({"role": "user", "content": "hello"},)


@pytest.fixture
def no_other_tasks(monkeypatch):
    """Runs measure no forgetting: these tests are about the queue."""
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: ())


@pytest.fixture
def data(tmp_path):
    rows = [
        {"prompt": f"colour {i}?", "answer": "red", "choices": ["blue", "red"], "label": 1}
        for i in range(24)
    ]
    path = tmp_path / "red.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def plan(data, **changes):
    return Plan(**{"name": "red", "source": data, "reward": "choice", "config": QUICK, **changes})


def wait(engine, name, *stages, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while engine.jobs.status(name).stage not in stages:
        assert time.monotonic() < deadline, engine.jobs.status(name)
        time.sleep(0.01)
    return engine.jobs.status(name)


def test_a_run_ends_with_an_expert_that_answers_at_once(engine, data):
    name = engine.training.queue(plan(data))
    assert wait(engine, name, FINISHED, FAILED).stage == FINISHED
    assert "red" in [e.name for e in engine.experts()]
    asked = ChatRequest(
        ASK, Controls("manual", mixture=Mixture({"red": 1.0})), Sampling(max_new_tokens=2)
    )
    assert isinstance(next(engine.answer("s", asked)), Dispatched)
    assert Run.open(name).finished


class Held:
    """Something big, in a circle: only the collector finds that nobody holds it any more."""

    def __init__(self):
        self.own = self


class HoldingWork(Work):
    kind = EVALUATION

    def run(self, job):
        held = Held()
        self.seen = weakref.ref(held)
        yield
        return ""


def test_what_a_job_kept_is_given_back_at_its_end(monkeypatch):
    monkeypatch.setattr("t2local.engine.jobs.LONG_S", 0.0)
    gc.disable()
    try:
        jobs, work = Jobs(), HoldingWork("held", "held")
        jobs.start(work)
        deadline = time.monotonic() + 20
        while jobs.live() or work.seen() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        gc.enable()


def test_chat_works_while_a_run_trains(engine, data):
    name = engine.training.queue(plan(data, config=TrainConfig(**{**vars(QUICK), "steps": 400})))
    wait(engine, name, RUNNING)
    asked = ChatRequest(ASK, Controls("base"), Sampling(temperature=0, max_new_tokens=8))
    during = list(engine.answer("s", asked))[-1].texts
    engine.jobs.stop(name)
    assert wait(engine, name, FINISHED).step < 400
    assert list(engine.answer("s", asked))[-1].texts == during


def test_a_paused_run_waits_and_goes_on(engine, data):
    name = engine.training.queue(plan(data, config=TrainConfig(**{**vars(QUICK), "steps": 60})))
    wait(engine, name, RUNNING)
    engine.jobs.pause(name)
    assert engine.jobs.status(name).stage == PAUSED
    engine.jobs.resume(name)
    engine.jobs.stop(name)
    assert wait(engine, name, FINISHED).stage == FINISHED


def test_a_restarted_server_finds_a_cut_off_run_and_goes_on(engine, data, model_folder):
    run = Run.create(plan(data, model=str(model_folder)))
    again = Engine(str(model_folder)).load()
    assert again.jobs.status(run.name).stage == INTERRUPTED
    again.jobs.resume(run.name)
    assert wait(again, run.name, FINISHED).step == QUICK.steps


def test_what_cannot_be_trained_says_so(engine, data, tmp_path):
    with pytest.raises(T2LocalError, match="neither a file"):
        engine.training.queue(plan("nothing.csv"))
    hopeless = tmp_path / "hopeless.jsonl"
    never = {"answer": "^$", "choices": ["^$", "grey"]}  # a pattern that matches no choice
    rows = [{"prompt": f"colour {i}?", **never} for i in range(24)]
    hopeless.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    name = engine.training.queue(plan(str(hopeless), reward="regex"))
    assert "Nothing to learn from" in wait(engine, name, FAILED).message


def test_the_current_z_of_a_running_run_is_an_expert_named_after_its_step(engine, data):
    name = engine.training.queue(plan(data, config=TrainConfig(**{**vars(QUICK), "steps": 400})))
    while engine.jobs.status(name).step < 2:
        time.sleep(0.01)
    engine.jobs.pause(name)
    expert = engine.training.snapshot(name)
    assert expert.name.startswith("red-step-")
    assert expert.rms > 0
    engine.jobs.stop(name)
    wait(engine, name, FINISHED)


def test_a_lora_run_has_no_z_to_snapshot(engine, data):
    lora = TrainConfig(**{**vars(QUICK), "method": "lora"})
    name = engine.training.queue(plan(data, config=lora))
    with pytest.raises(T2LocalError, match="LoRA adapter, which is no z"):
        engine.training.snapshot(name)
    assert "adapter lies" in wait(engine, name, FINISHED, FAILED).message
    assert "red" not in [e.name for e in engine.experts()]


def test_a_full_disk_pauses_the_run_and_says_so(engine, data, monkeypatch):
    full = [True]
    record = Run.record

    def maybe(self, event):
        if full[0]:
            raise DiskFull("The disk is full; free some space.")
        record(self, event)

    monkeypatch.setattr(Run, "record", maybe)
    name = engine.training.queue(plan(data))
    status = wait(engine, name, PAUSED)
    assert "The disk is full" in status.message
    full[0] = False
    engine.jobs.resume(name)
    assert wait(engine, name, FINISHED).step == QUICK.steps


def test_a_draft_answers_until_the_expert_takes_its_place(engine, data):
    name = engine.training.queue(plan(data, config=TrainConfig(**{**vars(QUICK), "steps": 400})))
    while engine.jobs.status(name).step < 2:
        time.sleep(0.01)
    engine.jobs.pause(name)
    draft = engine.draft(name)
    (info,) = [e for e in engine.experts() if e.name == draft]
    assert info.draft
    asked = ChatRequest(
        ASK, Controls("manual", mixture=Mixture({draft: 1.0})), Sampling(max_new_tokens=2)
    )
    assert isinstance(next(engine.answer("s", asked)), Dispatched)
    engine.jobs.resume(name)
    engine.jobs.stop(name)
    wait(engine, name, FINISHED)
    assert [e.name for e in engine.experts() if "red" in e.name] == ["red"]


def test_a_click_that_comes_after_the_end_changes_nothing(engine, data):
    name = engine.training.queue(plan(data))
    ended = wait(engine, name, FINISHED)
    again = Jobs()  # as after a restart
    Training(again, engine._trained_model, engine.adopt)
    for jobs in (engine.jobs, again):
        jobs.pause(name)
        jobs.stop(name)
        with pytest.raises(T2LocalError, match="'red' is finished"):
            jobs.resume(name)
        assert jobs.status(name).stage == FINISHED
        assert jobs.busy() == []
    assert engine.jobs.status(name) == ended
