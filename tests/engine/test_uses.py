"""Answers and moments from many threads: one answer an asker, and nobody is forgotten."""

import random
import threading
import time

import pytest

from t2local.engine.model_slot import Moments


@pytest.fixture
def workshop(engine):
    return engine._ready().workshop


def test_an_asker_has_one_answer_and_every_earlier_one_is_told_to_stop(workshop):
    moments, faults, left = Moments(), [], []

    def speak(seed):
        chance = random.Random(seed)
        for _ in range(400):
            with moments.of("s", workshop) as mine:
                if chance.random() < 0.5:
                    time.sleep(0)
                newest = moments.running("s")
                if newest is not mine and not mine.cancel.cancelled:
                    left.append(mine)  # its successor may be about to tell it
            if moments.running("s") is mine:
                faults.append("an answer that is over")

    threads = [threading.Thread(target=speak, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not faults
    assert all(mine.cancel.cancelled for mine in left)
    assert moments.running("s") is None
    assert not moments._using


def test_the_end_of_an_answer_leaves_its_successor_in_place(workshop):
    moments = Moments()
    first, second = moments.of("s", workshop), moments.of("s", workshop)
    one, two = first.__enter__(), second.__enter__()
    assert (one.cancel.cancelled, two.cancel.cancelled) == (True, False)
    first.__exit__(None, None, None)
    assert moments.running("s") is two
    second.__exit__(None, None, None)
    assert moments.running("s") is None


def test_the_model_goes_when_replaced_answers_and_moments_are_over_too(workshop):
    moments = Moments()
    replaced, moment = moments.of("s", workshop), moments.moment()
    replaced.__enter__(), moment.__enter__()
    with moments.of("s", workshop):
        pass
    ending = threading.Thread(target=moments.end, args=(30,))
    ending.start()
    for block in (replaced, moment):
        ending.join(timeout=0.05)
        assert ending.is_alive()
        block.__exit__(None, None, None)
    ending.join(timeout=10)
    assert not ending.is_alive()


def test_the_end_of_answers_does_not_wait_for_ever(workshop):
    moments = Moments()
    with moments.of("s", workshop) as abandoned:
        moments.end(timeout_s=0.01)
        assert abandoned.cancel.cancelled
