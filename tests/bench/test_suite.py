"""`bench`: parts in their order, each one's figures at once, and the next one whatever happens."""

import signal
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

import pytest
import torch

from t2local.bench.suite import QUICK, measuring, sampled
from t2local.bench.table import Measured, Row, in_turn
from t2local.errors import T2LocalError


def test_samples_of_matrices_meet_every_kind():
    names = tuple(f"{layer}.{kind}" for layer in range(30) for kind in "qkvogud")
    chosen = sampled(names, 20)
    assert 15 <= len(chosen) <= 20
    assert {name[-1] for name in chosen} == set("qkvogud")
    assert sampled(names, 1000) == names


def test_what_a_part_gives_comes_before_the_next_part_begins():
    done, rows = [], [Row("decode", str(number), 1.0, "tokens/s") for number in range(3)]

    def slow(number: int) -> Measured:
        done.append(number)
        return Measured([rows[number]], {})

    def several():
        yield "as it goes"
        yield slow(1)
        yield slow(2)

    events = in_turn({"one": lambda: slow(0), "more": several})
    assert next(events) == "measuring one"
    assert next(events).rows == rows[:1]
    assert done == [0]
    assert [next(events), next(events)] == ["measuring more", "as it goes"]
    assert next(events).rows == rows[1:2]
    assert done == [0, 1]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError(), "out of memory"),
        (MemoryError(), "out of memory"),
        (BrokenProcessPool(), "its process ended"),
        (T2LocalError("No room."), "No room."),
        (RuntimeError("no kernel"), "RuntimeError: no kernel"),
    ],
)
def test_a_part_that_fails_says_why_and_the_next_one_is_done(error, why):
    row = Row("decode", "base", 1.0, "tokens/s")

    def half():
        yield Measured([row], {})
        raise error

    def whole() -> Measured:
        raise error

    last = Measured([], {"ratio": 1.0})
    events = list(in_turn({"half": half, "whole": whole, "last": lambda: last}))
    assert events[1] == Measured([row], {})
    failed = [event for event in events if isinstance(event, str) and "not measured" in event]
    assert [line.split(":")[0] for line in failed] == ["half", "whole"]
    assert all(why in line for line in failed)
    assert events[-1] is last


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no alarm")
def test_a_part_that_takes_too_long_is_ended_and_the_next_one_is_done():
    """Whatever it catches; and never in whoever takes what it gives, however slowly."""

    def endless():
        yield "begins"
        while True:
            with suppress(Exception):
                time.sleep(0.01)

    last = Measured([], {"ratio": 1.0})
    signal.setitimer(signal.ITIMER_REAL, 3600)  # another's, which goes on afterwards
    try:
        events = []
        for event in in_turn({"endless": endless, "last": lambda: last}, limit_s=0.2):
            events.append(event)
            time.sleep(0.3)
        assert 3590 < signal.getitimer(signal.ITIMER_REAL)[0] < 3599.9
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert events[1:3] == ["begins", "endless: not measured: longer than 0.2 s"]
    assert events[-1] is last


def test_a_model_that_cannot_be_opened_ends_it_with_one_sentence(tmp_path):
    events = measuring((str(tmp_path / "none.gguf"), "auto", "auto"), QUICK)
    assert next(events) == "opening the model"
    with pytest.raises(T2LocalError, match=r"none\.gguf"):
        next(events)


def test_a_part_that_nobody_has_is_told_with_those_there_are():
    with pytest.raises(T2LocalError, match="there are: a training step"):
        next(measuring(("embedded", "auto", "auto"), QUICK, "no such part"))
