import threading
from dataclasses import dataclass
from itertools import product

import pytest

from t2local.errors import T2LocalError
from t2local.progress import (
    BUSY,
    ENDED,
    FINISHED,
    NEXT,
    PAUSED,
    QUEUED,
    RUNNING,
    STOPPING,
    LongWork,
)


@dataclass(frozen=True)
class Status:
    stage: str
    message: str = ""


def work(stage=QUEUED):
    return LongWork("red", Status(stage), threading.Condition())


@pytest.mark.parametrize(("now", "then"), product(NEXT, NEXT))
def test_a_stage_follows_another_only_by_the_table(now, then):
    it = work(now)
    if then == now or then in NEXT[now]:
        it.tell(stage=then)
        assert it.status.stage == then
    else:
        with pytest.raises(T2LocalError, match=f"'red' is {now} and cannot be {then}"):
            it.tell(stage=then, message="lost")
        assert it.status == Status(now)


@pytest.mark.parametrize("stage", BUSY)
def test_every_stage_leads_to_an_end(stage):
    reached = {stage}
    for _ in NEXT:
        reached |= {after for now in reached for after in NEXT[now]}
    assert FINISHED in reached


@pytest.mark.parametrize("stage", ENDED)
def test_a_click_that_comes_late_changes_nothing(stage):
    it = work(stage)
    it.pause("Paused.")
    it.stop("Stopping.")
    it.end(FINISHED, message="ready")
    with pytest.raises(T2LocalError, match=f"is {stage} and cannot be running again"):
        it.resume()
    assert it.status == Status(stage)
    assert not it.goes_on()


@pytest.mark.parametrize("stage", [QUEUED, RUNNING])
def test_what_goes_on_already_is_not_changed_by_a_resume(stage):
    it = work(stage)
    it.resume()
    assert it.status == Status(stage)


def test_paused_before_its_turn_it_waits_for_it_again():
    it = work()
    it.pause("Paused.")
    it.resume()
    assert it.status.stage == QUEUED
    assert it.take_up()
    assert it.status.stage == RUNNING


def test_a_stop_is_not_taken_back():
    it = work(RUNNING)
    it.stop("Stopping.")
    with pytest.raises(T2LocalError, match="is stopping"):
        it.resume()
    it.pause("Paused.")
    assert it.status.stage == PAUSED
    it.resume()
    assert it.status.stage == STOPPING
    assert it.cancel.cancelled
    assert it.goes_on(), "it has its last step to take"


def test_a_worker_waits_while_it_is_paused():
    it, went_on = work(RUNNING), threading.Event()
    it.pause("Paused.")
    worker = threading.Thread(target=lambda: (it.goes_on(), went_on.set()), daemon=True)
    worker.start()
    assert not went_on.wait(0.1)
    it.resume()
    assert went_on.wait(5)
