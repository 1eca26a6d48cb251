"""Answers and moments from many threads: one answer a session, and nobody is forgotten."""

import random
import threading
import time

import pytest

from t2local.engine.model_slot import Answers


@pytest.fixture
def workshop(engine):
    return engine._ready().workshop


def test_a_session_has_one_answer_and_every_earlier_one_is_told_to_stop(workshop):
    answers, faults, left = Answers(), [], []

    def speak(seed):
        chance = random.Random(seed)
        for _ in range(400):
            with answers.of("s", workshop) as mine:
                if chance.random() < 0.5:
                    time.sleep(0)
                newest = answers.running("s")
                if newest is not mine and not mine.cancel.cancelled:
                    left.append(mine)  # its successor may be about to tell it
            if answers.running("s") is mine:
                faults.append("an answer that is over")

    threads = [threading.Thread(target=speak, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not faults
    assert all(mine.cancel.cancelled for mine in left)
    assert answers.running("s") is None
    assert not answers._moments


def test_the_end_of_an_answer_leaves_its_successor_in_place(workshop):
    answers = Answers()
    first, second = answers.of("s", workshop), answers.of("s", workshop)
    one, two = first.__enter__(), second.__enter__()
    assert (one.cancel.cancelled, two.cancel.cancelled) == (True, False)
    first.__exit__(None, None, None)
    assert answers.running("s") is two
    second.__exit__(None, None, None)
    assert answers.running("s") is None


def test_the_model_goes_when_replaced_answers_and_moments_are_over_too(workshop):
    answers = Answers()
    replaced, moment = answers.of("s", workshop), answers.moment()
    replaced.__enter__(), moment.__enter__()
    with answers.of("s", workshop):
        pass
    ending = threading.Thread(target=answers.end, args=(30,))
    ending.start()
    for block in (replaced, moment):
        ending.join(timeout=0.05)
        assert ending.is_alive()
        block.__exit__(None, None, None)
    ending.join(timeout=10)
    assert not ending.is_alive()


def test_the_end_of_answers_does_not_wait_for_ever(workshop):
    answers = Answers()
    with answers.of("s", workshop) as abandoned:
        answers.end(timeout_s=0.01)
        assert abandoned.cancel.cancelled
