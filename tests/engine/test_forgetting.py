"""What a person's expert does to others' tasks can be measured after its training."""

import json
import time
from dataclasses import replace

import pytest

from t2local.engine.engine import Seat
from t2local.engine.people import GUEST, Account
from t2local.errors import Cancelled, T2LocalError
from t2local.experts import Library
from t2local.progress import FINISHED, CancelToken, drain
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.validation import OtherTask

QUICK = TrainConfig(
    steps=2, prompts_per_step=4, samples_per_prompt=2, max_new_tokens=4, validate_every=2
)


@pytest.fixture
def trained(engine, tmp_path, monkeypatch):
    """An engine with an expert *red* whose run measured no forgetting, and its run."""
    columns = {"choices": ["blue", "red"], "label": 1}
    task = OtherTask("others", tuple(Example(f"other {i}?", "red", columns) for i in range(4)))
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: (task,))
    rows = [{"prompt": f"thing {i}?", "answer": "red", **columns} for i in range(24)]
    path = tmp_path / "red.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = engine.training.start(
        "red", str(path), "choice", "the steps below", QUICK, forgetting=False
    )
    ended(engine, run)
    return engine, run


def ended(engine, job):
    deadline = time.monotonic() + 60
    while engine.jobs.status(job).live:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return engine.jobs.status(job)


def forgotten(engine):
    return next(expert for expert in engine.experts() if expert.name == "red").forgetting


def test_a_run_that_was_told_so_measures_no_forgetting_and_still_who_finds_it(trained):
    engine, run = trained
    report = engine.training.report(run)
    assert report.status.stage == FINISHED
    assert tuple(report.forgetting) == ()
    assert report.found is not None
    assert forgotten(engine) == ()


def test_it_is_measured_later_and_stands_on_the_card(trained):
    engine, _ = trained
    status = ended(engine, engine.forgotten.start("red"))
    assert status.stage == FINISHED, status
    assert status.message.startswith("others: ")
    (measured,) = forgotten(engine)
    assert (measured["task"], measured["n"]) == ("others", 4)
    assert Library(engine.models.ready().loaded.slug).load("red").held_out is not None


def test_an_expert_that_changed_meanwhile_keeps_its_own_card(trained):
    engine, _ = trained
    library = Library(engine.models.ready().loaded.slug)
    before = library.load("red")
    library.save(replace(before, z={name: z + 0.5 for name, z in before.z.items()}))
    with pytest.raises(T2LocalError, match="has changed while it was measured"):
        engine.library.keep_forgetting(before, [])


def test_stopped_it_leaves_the_card_as_it_was(trained):
    engine, _ = trained
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        drain(engine.forgotten.measure("red", cancel))
    assert forgotten(engine) == ()


def test_only_what_is_there_is_measured_and_only_by_the_owner(trained):
    engine, _ = trained
    with pytest.raises(T2LocalError, match="nobody"):
        engine.forgotten.start("nobody")
    guest = Seat(engine, Account("ben", GUEST, ""), engine.chats)
    with pytest.raises(T2LocalError, match="Only the owner of this t2local can measure an expert"):
        guest.forgotten.start("red")
