"""Passwords, sessions and failed tries, by a clock of the test's own."""

import pytest

from t2local.engine import passwords
from t2local.engine.passwords import Sessions, Tries, is_right, made_up


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_made_up_passwords_differ_and_can_be_typed():
    many = {made_up() for _ in range(200)}
    assert len(many) == 200
    assert all(set(one) <= {*passwords.LETTERS, "-"} and len(one) == 19 for one in many)


def test_a_password_is_right_as_a_whole():
    assert is_right("straße".encode(), "straße")
    for wrong in (b"", b"stra", "straße ".encode(), b"STRASSE"):
        assert not is_right(wrong, "straße")


def test_a_session_is_known_until_it_is_closed_or_idle_for_long(clock):
    sessions = Sessions(clock)
    one, other = sessions.open(), sessions.open()
    assert one != other
    assert not sessions.knows("")
    assert not sessions.knows(one + "x")
    sessions.close(other)
    assert not sessions.knows(other)
    for _ in range(3):  # used, it goes on
        clock.now += passwords.IDLE_S - 1
        assert sessions.knows(one)
    clock.now += passwords.IDLE_S
    assert not sessions.knows(one)


def test_sessions_are_bounded_and_the_oldest_goes(clock):
    sessions = Sessions(clock)
    first = sessions.open()
    kept = sessions.open()
    for _ in range(passwords.MOST_SESSIONS - 1):
        sessions.knows(kept)
        sessions.open()
    assert not sessions.knows(first)
    assert sessions.knows(kept)
    assert len(sessions._used) == passwords.MOST_SESSIONS


def test_an_address_that_guesses_must_wait_and_others_need_not(clock):
    tries = Tries(clock)
    for _ in range(passwords.TRIES):
        assert tries.wait_s("10.0.0.7") == 0
        tries.failed("10.0.0.7")
    assert 0 < tries.wait_s("10.0.0.7") <= passwords.TRY_EVERY_S
    assert tries.wait_s("10.0.0.8") == 0
    clock.now += passwords.TRY_EVERY_S
    assert tries.wait_s("10.0.0.7") == 0
    tries.failed("10.0.0.7")
    assert tries.wait_s("10.0.0.7") > 0


def test_many_addresses_at_once_are_slowed_and_nobody_waits_long(clock):
    tries, failed = Tries(clock), 0
    for second in range(100):
        clock.now = 1_000.0 + second
        for n in range(50):
            if tries.wait_s(f"10.{second}.0.{n}") == 0:
                tries.failed(f"10.{second}.0.{n}")
                failed += 1
    assert failed <= passwords.ALL_TRIES + 100 / passwords.ALL_EVERY_S
    assert tries.wait_s("192.0.2.1") <= passwords.ALL_EVERY_S


def test_what_is_remembered_of_addresses_is_bounded(clock):
    tries = Tries(clock)
    for n in range(passwords.MOST_ADDRESSES + 100):
        tries.failed(f"10.0.{n // 256}.{n % 256}")
    assert len(tries._of) == passwords.MOST_ADDRESSES


def test_the_addresses_of_one_ipv6_network_are_one(clock):
    tries = Tries(clock)
    for n in range(passwords.TRIES):
        tries.failed(f"2001:db8::{n}")
    assert tries.wait_s("2001:db8::ffff:1") > 0
    assert tries.wait_s("2001:db8:0:1::1") == 0
    for _ in range(passwords.TRIES):
        tries.failed("::ffff:10.0.0.7")
    assert tries.wait_s("10.0.0.7") > 0
    assert tries.wait_s("not an address") == 0
