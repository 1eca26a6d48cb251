import gc
import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch

from t2local.adapt.cem import CEMConfig
from t2local.adapt.dispatch import Dispatched, Done
from t2local.engine import loading
from t2local.engine.engine import Engine
from t2local.engine.job_record import LOADING
from t2local.engine.loading import Choice, at_start, last_choice
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.models.decode.sampling import Sampling
from t2local.progress import FINISHED, INTERRUPTED, RUNNING, drain
from t2local.svf import Mixture, attaching
from t2local.tasks.rows import Example
from t2local.training.runs import Run
from tests.engine.test_jobs import QUICK, data, no_other_tasks, plan, wait

__all__ = ["data", "no_other_tasks"]
ASK = ({"role": "user", "content": "What is 2 + 2?"},)
LONG = Sampling(temperature=0.0, max_new_tokens=200, repetition_penalty=1.0)
MATH = Mixture({"math": 1.0})


def request(mixture=MATH, sampling=LONG):
    return ChatRequest(ASK, Controls("manual", mixture=mixture), sampling)


def settled(engine, timeout_s=30):
    """Wait for whatever is being loaded."""
    deadline = time.monotonic() + timeout_s
    while engine.jobs.live(LOADING):
        assert time.monotonic() < deadline, engine.status
        time.sleep(0.01)
    return engine.status


@pytest.fixture
def other(tiny_folder):
    return str(tiny_folder("qwen2"))


def test_another_model_answers_and_the_old_one_is_gone(engine, other):
    list(engine.answer("s", request()))  # leaves caches
    engine.next_tokens("s", request(), MATH)
    model, svf = engine._trained_model()
    old = [weakref.ref(thing) for thing in (model.model, svf, model.model.get_input_embeddings())]
    bases = weakref.ref(svf.model.get_submodule(svf.matrix_names[0]).basis.vectors)
    del model, svf
    engine.switch(other)
    status = settled(engine)
    assert (status.model_name, status.ready, status.note) == ("tiny-qwen2", True, "")
    assert status.serial == 1
    gc.collect()
    assert [ref() for ref in (*old, bases)] == [None] * 4
    assert engine.experts() == []
    assert engine.strategies() == ["base"]
    answered = list(engine.answer("s", request(Mixture())))
    assert isinstance(answered[-1], Done)


def test_an_answer_in_progress_ends_and_its_model_goes(engine, other):
    old = weakref.ref(engine._trained_model()[0].model)
    events = []

    def speak():
        events.extend(engine.answer("s", request()))

    speaking = threading.Thread(target=speak)
    speaking.start()
    while not any(not isinstance(e, Dispatched) for e in events):
        time.sleep(0.001)
    engine.switch(other)
    speaking.join(timeout=10)
    assert events[-1].finish == "cancelled"
    assert settled(engine).model_name == "tiny-qwen2"
    gc.collect()
    assert old() is None


def test_when_the_new_one_fails_the_old_one_is_loaded_again(engine, model_folder, tmp_path):
    before = list(engine.answer("s", request()))[-1].texts
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"nonsense")
    engine.switch(str(broken))
    status = settled(engine)
    assert status.ready
    assert "broken" in status.note
    assert "'tiny-llama' is loaded instead" in status.note
    assert list(engine.answer("s", request()))[-1].texts == before
    assert engine.training.loading["model"] == str(model_folder)
    assert last_choice() is None


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"source": "no such model"}, "no such folder"),
        ({"source": "embedded", "quantize": "nf5"}, "Quantisation 'nf5'"),
        ({"source": "embedded", "basis": "int2"}, "Basis dtype 'int2'"),
    ],
)
def test_what_is_plainly_wrong_is_refused_before_anything_is_freed(engine, asked, word):
    with pytest.raises(T2LocalError, match=word):
        engine.switch(**asked)
    assert engine.status.ready
    assert engine.status.serial == 0


def test_a_cancelled_load_brings_the_old_model_back(engine, other, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*arguments):
        begun.set()
        go_on.wait(timeout=10)
        return (yield from attaching(*arguments))

    monkeypatch.setattr("t2local.adapt.applier.attaching", slowly)
    engine.switch(other)
    assert begun.wait(timeout=10)
    with pytest.raises(T2LocalError, match="is being loaded"):
        engine.switch(other)
    with pytest.raises(T2LocalError, match="not ready"):
        next(engine.answer("s", request()))
    engine.models.cancel()
    go_on.set()
    status = settled(engine)
    assert status.model_name == "tiny-llama"
    assert "'tiny-qwen2' was cancelled" in status.note


@pytest.mark.usefixtures("no_other_tasks")
def test_a_run_at_work_keeps_its_model_and_a_paused_one_is_left_on_disk(
    engine, other, data, model_folder
):
    asked = plan(data, config=type(QUICK)(**{**vars(QUICK), "steps": 400}), model=str(model_folder))
    name = engine.training.queue(asked)
    while wait(engine, name, RUNNING).step < 2:
        time.sleep(0.01)
    with pytest.raises(T2LocalError, match=r"'red'.*pause or stop"):
        engine.switch(other)
    old = weakref.ref(engine._trained_model()[0].model)
    engine.draft(name)
    engine.jobs.pause(name)
    engine.switch(other)
    assert settled(engine).model_name == "tiny-qwen2"
    gc.collect()
    assert old() is None
    assert engine.jobs.status(name).stage == INTERRUPTED
    assert Run.open(name).state().step >= 1
    with pytest.raises(T2LocalError, match="load that model"):
        engine.jobs.resume(name)
    engine.switch(str(model_folder))
    settled(engine)
    engine.jobs.resume(name)
    engine.jobs.stop(name)


@pytest.mark.usefixtures("no_other_tasks")
def test_a_run_that_has_ended_keeps_no_model_whatever_it_is_told(engine, other, data):
    name = engine.training.queue(plan(data))
    wait(engine, name, FINISHED)
    engine.jobs.stop(name)
    engine.jobs.pause(name)
    engine.jobs.stop(name)
    engine.switch(other)
    assert settled(engine).model_name == "tiny-qwen2"


def test_a_search_keeps_its_model_until_it_is_stopped(engine, other):
    rows = [Example(f"thing {i}?", ("red", "blue")[i % 2]) for i in range(6)]
    search = engine.searches.search(rows, "exact", CEMConfig(shots=4))
    next(search)
    with pytest.raises(T2LocalError, match="search on the page Adapt is using the model"):
        engine.switch(other)
    search.close()
    engine.switch(other)
    assert settled(engine).model_name == "tiny-qwen2"


def test_the_last_choice_is_opened_next_time(engine, other, monkeypatch):
    monkeypatch.delenv("T2LOCAL_MODEL", raising=False)
    assert at_start().source == "embedded"
    engine.switch(other, targets="mlp", basis="int8")
    assert settled(engine).basis == "int8"
    again = at_start()
    assert again == Choice(other, "auto", "int8", "mlp", why=loading.LAST)
    assert at_start(basis="fp32").basis == "fp32"
    assert at_start("some/model") == Choice("some/model", why=loading.ASKED)
    monkeypatch.setenv("T2LOCAL_MODEL", "env/model")
    assert at_start() == Choice("env/model", why=loading.FROM_ENVIRONMENT)


def test_a_damaged_memory_of_the_last_choice_counts_as_none(home):
    home.mkdir()
    for text in ("", "[]", '{"quantize": "auto"}', "\0\0"):
        (home / "model.json").write_text(text)
        assert last_choice() is None


def test_a_last_choice_that_is_gone_gives_way_to_the_default(model_folder, monkeypatch):
    monkeypatch.setattr(loading, "default", lambda: Choice(str(model_folder), why=loading.DEFAULT))
    engine = Engine("/nowhere/at-all", why=loading.LAST)
    engine.start()
    status = settled(engine)
    assert status.ready
    assert status.why == loading.DEFAULT
    assert "at-all" in status.note


def test_the_classifier_stays_warm_when_experts_change(engine):
    def copy():
        """What pass 1 would read with at once, None where it would have to rebuild first."""
        applier, reader = engine._ready().workshop.applier, engine._ready().reader
        return applier._rebuilt.get(applier.key(reader))

    at_first = copy()
    assert at_first
    engine.library.duplicate("math")
    assert copy() is at_first, "the same classifier is taken over, not rebuilt"
    reader = ExpertStore(engine.status.model_name).load("reader")
    engine.adopt(replace(reader, z={name: row.flip(0) for name, row in reader.z.items()}))
    deadline = time.monotonic() + 10
    while copy() is None:
        assert time.monotonic() < deadline, "another one is rebuilt in the background"
        time.sleep(0.01)
    applier, reading = engine._ready().workshop.applier, engine._ready().reader
    fresh = applier.svf.rebuild(applier.z_of(reading))
    assert all(torch.equal(copy()[name], matrix) for name, matrix in fresh.items())


def test_loading_in_the_foreground_is_the_same_model(model_folder, engine):
    one, two = Engine(str(model_folder)).load(), engine
    assert one.status == two.status
    assert drain(iter_texts(one)) == drain(iter_texts(two))


def iter_texts(engine):
    """The words of an answer, as a generator that returns them."""
    said = []
    for event in engine.answer("s", request(Mixture())):
        said.append(event)
        yield event
    return said[-1].texts


@pytest.mark.parametrize("work", ["a preview", "pass 1", "a warm-up"])
def test_another_model_waits_until_nobody_uses_the_old_one(engine, other, work):
    asked = ChatRequest(ASK, Controls("prompt"))
    old = weakref.ref(engine._trained_model()[0].model)
    works = {
        "a preview": lambda: engine.next_tokens("s", asked, MATH),
        "pass 1": lambda: engine.dispatch(asked),
    }
    lock = engine._trained_model()[1].lock
    with lock:  # as a training step would
        if work == "a warm-up":
            engine.restock()  # begins one
        else:
            threading.Thread(target=works[work], daemon=True).start()
        deadline = time.monotonic() + 10
        while not lock._waiting:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        engine.switch(other)
        time.sleep(0.2)
        assert engine.status.stage == "Making room"
    assert settled(engine).model_name == "tiny-qwen2"
    del lock
    gc.collect()
    assert old() is None
