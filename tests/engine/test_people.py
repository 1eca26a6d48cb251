"""Accounts, passwords, sessions and failed tries, by a clock of the test's own."""

import asyncio
import os

import pytest

from t2local.engine import people
from t2local.engine.people import (
    GUEST,
    OWNER,
    Keeper,
    Sessions,
    Tries,
    add_account,
    hashed,
    is_right,
    made_up,
    matches,
    new_account,
    read_accounts,
    readable_by_others,
    remove_account,
)
from t2local.errors import T2LocalError


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_made_up_people_differ_and_can_be_typed():
    many = {made_up() for _ in range(200)}
    assert len(many) == 200
    assert all(set(one) <= {*people.LETTERS, "-"} and len(one) == 19 for one in many)


def test_a_password_is_right_as_a_whole():
    assert is_right("straße".encode(), "straße")
    for wrong in (b"", b"stra", "straße ".encode(), b"STRASSE"):
        assert not is_right(wrong, "straße")


def test_a_session_is_known_until_it_is_closed_or_idle_for_long(clock):
    sessions = Sessions(clock)
    one, other = sessions.open(), sessions.open()
    assert one != other
    assert sessions.who("") is None
    assert sessions.who(one + "x") is None
    sessions.close(other)
    assert sessions.who(other) is None
    for _ in range(3):  # used, it goes on
        clock.now += people.IDLE_S - 1
        assert sessions.who(one) == ""
    clock.now += people.IDLE_S
    assert sessions.who(one) is None


def test_sessions_are_bounded_and_the_oldest_goes(clock):
    sessions = Sessions(clock)
    first = sessions.open()
    kept = sessions.open()
    for _ in range(people.MOST_SESSIONS - 1):
        sessions.who(kept)
        sessions.open()
    assert sessions.who(first) is None
    assert sessions.who(kept) == ""
    assert len(sessions._used) == people.MOST_SESSIONS


def test_an_address_that_guesses_must_wait_and_others_need_not(clock):
    tries = Tries(clock)
    for _ in range(people.TRIES):
        assert tries.wait_s("10.0.0.7") == 0
        tries.failed("10.0.0.7")
    assert 0 < tries.wait_s("10.0.0.7") <= people.TRY_EVERY_S
    assert tries.wait_s("10.0.0.8") == 0
    clock.now += people.TRY_EVERY_S
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
    assert failed <= people.ALL_TRIES + 100 / people.ALL_EVERY_S
    assert tries.wait_s("192.0.2.1") <= people.ALL_EVERY_S


def test_what_is_remembered_of_addresses_is_bounded(clock):
    tries = Tries(clock)
    for n in range(people.MOST_ADDRESSES + 100):
        tries.failed(f"10.0.{n // 256}.{n % 256}")
    assert len(tries._of) == people.MOST_ADDRESSES


def test_the_addresses_of_one_ipv6_network_are_one(clock):
    tries = Tries(clock)
    for n in range(people.TRIES):
        tries.failed(f"2001:db8::{n}")
    assert tries.wait_s("2001:db8::ffff:1") > 0
    assert tries.wait_s("2001:db8:0:1::1") == 0
    for _ in range(people.TRIES):
        tries.failed("::ffff:10.0.0.7")
    assert tries.wait_s("10.0.0.7") > 0
    assert tries.wait_s("not an address") == 0


def test_a_name_that_is_guessed_must_wait_wherever_it_is_tried_from(clock):
    tries = Tries(clock)
    for n in range(people.NAME_TRIES):
        assert tries.wait_s(f"10.0.0.{n}", "anna") == 0
        tries.failed(f"10.0.0.{n}", "anna")
    assert 0 < tries.wait_s("10.0.1.1", "anna") <= people.TRY_EVERY_S
    assert tries.wait_s("10.0.1.1", "ben") == tries.wait_s("10.0.1.1") == 0


def test_a_session_says_whose_it_is(clock):
    sessions = Sessions(clock)
    anna, ben = sessions.open("anna"), sessions.open("ben")
    assert (sessions.who(anna), sessions.who(ben)) == ("anna", "ben")
    sessions.close(anna)
    assert (sessions.who(anna), sessions.who(ben)) == (None, "ben")


# --- Accounts

WORDS = "straße 7 by night"
HASH = hashed(WORDS)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "accounts.txt"


def written(file, *lines):
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_a_hash_is_of_one_password_and_never_the_same():
    assert matches(WORDS.encode(), HASH)
    assert not matches(WORDS.upper().encode(), HASH)
    assert hashed(WORDS) != HASH
    assert WORDS not in repr(new_account("anna", OWNER, WORDS)) + HASH
    assert HASH not in repr(people.Account("anna", OWNER, HASH))


def test_accounts_are_read_as_they_were_added_and_removed(file):
    add_account(file, new_account("Anna", OWNER, WORDS))
    file.write_text(f"# the family\n\n{file.read_text()}")
    add_account(file, new_account("ben", GUEST, WORDS))
    assert [(one.name, one.role) for one in read_accounts(file)] == [
        ("anna", OWNER),
        ("ben", GUEST),
    ]
    remove_account(file, "BEN")
    assert [one.name for one in read_accounts(file)] == ["anna"]
    assert file.read_text().startswith("# the family\n\nanna owner scrypt$")
    assert not list(file.parent.glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_the_file_is_its_owners_alone(file):
    add_account(file, new_account("anna", OWNER, WORDS))
    assert file.stat().st_mode & 0o777 == 0o600
    assert not readable_by_others(file)
    file.chmod(0o640)
    assert readable_by_others(file)
    add_account(file, new_account("ben", GUEST, WORDS))
    assert not readable_by_others(file)


LINES = {
    "no owner": [f"anna guest {HASH}"],
    "two words": [f"ben owner {HASH}", "anna owner"],
    "four words": [f"ben owner {HASH}", f"anna owner {HASH} x"],
    "a role": [f"ben owner {HASH}", f"anna admin {HASH}"],
    "a name": [f"ben owner {HASH}", f"../anna owner {HASH}"],
    "a dot": [f"ben owner {HASH}", f"an.na owner {HASH}"],
    "a long name": [f"ben owner {HASH}", f"{'a' * 33} owner {HASH}"],
    "twice": [f"anna owner {HASH}", f"ANNA guest {HASH}"],
    "no hash": [f"ben owner {HASH}", f"anna owner {WORDS.replace(' ', '')}"],
    "a cheap hash": [f"ben owner {HASH}", "anna owner " + HASH.replace("$14$", "$1$")],
    "a costly hash": [f"ben owner {HASH}", "anna owner " + HASH.replace("$14$8$", "$30$99$")],
    "a short hash": [f"ben owner {HASH}", f"anna owner {HASH[:-9]}"],
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_a_wrong_line_is_told_by_its_number(file, lines):
    with pytest.raises(T2LocalError) as told:
        read_accounts(written(file, *lines))
    said = str(told.value)
    assert "accounts.txt" in said
    assert ("No owner" if len(lines) == 1 else "Line 2 of") in said
    assert HASH[20:40] not in said
    assert said.count(". ") == 0


def test_a_file_that_cannot_be_read_is_told(file, monkeypatch):
    for content in (None, b"\xff\xfe", b"#" * 100_000):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(T2LocalError, match=r"accounts\.txt"):
            read_accounts(file)
    written(file, f"anna owner {HASH}", *(f"g{n} guest {HASH}" for n in range(100)))
    with pytest.raises(T2LocalError, match="101 accounts"):
        read_accounts(file)


def test_what_could_not_be_read_back_is_not_written(file):
    for change in (
        lambda: add_account(file, new_account("ben", GUEST, WORDS)),  # the first, and no owner
        lambda: remove_account(file, "anna"),
    ):
        with pytest.raises(T2LocalError):
            change()
        assert not file.exists()
    add_account(file, new_account("anna", OWNER, WORDS))
    before = file.read_bytes()
    for change in (
        lambda: add_account(file, new_account("anna", GUEST, WORDS)),
        lambda: remove_account(file, "anna"),  # the only owner
        lambda: remove_account(file, "ben"),
        lambda: add_account(file, new_account("../x", GUEST, WORDS)),
        lambda: add_account(file, new_account("carl", GUEST, "short")),
    ):
        with pytest.raises(T2LocalError):
            change()
        assert file.read_bytes() == before


# --- Whose password it is


def check(keeper, name, password=WORDS, client="10.0.0.7"):
    return asyncio.run(keeper.check(client, name, password.encode()))


@pytest.fixture
def keeper():
    return Keeper(
        None, [new_account("anna", OWNER, WORDS), new_account("ben", GUEST, "bens words")]
    )


def test_each_has_a_password_of_their_own(keeper):
    assert check(keeper, "anna").who == check(keeper, " Anna ").who == "anna"
    assert check(keeper, "ben", "bens words").who == "ben"
    for name, password in (("ben", WORDS), ("anna", ""), ("carl", WORDS), ("", WORDS)):
        assert check(keeper, name, password, f"10.1.0.{len(name)}").who is None


def test_a_name_that_nobody_has_is_hashed_all_the_same(keeper, monkeypatch):
    compared = []
    monkeypatch.setattr(people, "matches", lambda given, secret: compared.append(secret) or True)
    assert check(keeper, "carl").who is None
    assert len(compared) == 1


def test_a_password_that_was_right_is_not_hashed_again(keeper, monkeypatch):
    assert check(keeper, "anna").who == "anna"
    monkeypatch.setattr(people, "matches", lambda given, secret: False)
    assert check(keeper, "anna").who == "anna"
    assert check(keeper, "anna", "bens words").who is None
    assert check(keeper, "ben", "bens words").who is None


def test_many_tries_at_once_are_no_more_than_one_after_another(keeper, monkeypatch):
    monkeypatch.setattr(people, "matches", lambda given, secret: False)

    async def many():
        return await asyncio.gather(*(keeper.check("10.0.0.7", "anna", b"x") for _ in range(30)))

    assert sum(one.wait_s == 0 for one in asyncio.run(many())) == people.TRIES


def test_the_loop_goes_on_while_a_password_is_hashed(keeper, monkeypatch):
    async def both():
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(given, secret):
            loop.call_soon_threadsafe(began.set)
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, True), loop).result(10)

        monkeypatch.setattr(people, "matches", slow)
        asking = asyncio.create_task(keeper.check("10.0.0.7", "anna", b"x"))
        await asyncio.wait_for(began.wait(), 10)
        return await asking

    assert asyncio.run(both()).who == "anna"
