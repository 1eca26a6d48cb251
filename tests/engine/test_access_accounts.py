"""Who gets in where each person has an account; whose request it is. The way in, `test_access`."""

import base64

import pytest

from t2local.engine.access import ACCOUNT, Guard
from t2local.engine.doors import Doors, decide
from t2local.engine.people import GUEST, OWNER, new_account
from t2local.errors import T2LocalError
from tests.engine.test_access import BROWSER, FORM, HOME, App, ask, cookie_of, drawn

ANNA, BEN = "annas own: words", "bens own words"
ACCOUNTS = (new_account("anna", OWNER, ANNA), new_account("ben", GUEST, BEN))


@pytest.fixture
def app():
    return App()


@pytest.fixture
def guard(app):
    return Guard(app, Doors(accounts=ACCOUNTS), drawn)


def basic(name, password):
    return "authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def log_in(guard, name, password, headers=(HOME, FORM), **more):
    body = f"username={name}&password={password}".encode()
    return ask(guard, "/login", headers, "POST", chunks=(body,), **more)


def test_without_name_and_password_nothing_is_let_in(guard, app):
    for given in (
        [],
        [("cookie", "t2local-7860=nonsense")],
        [("authorization", f"Bearer {ANNA}")],
        [("authorization", f"Basic {ANNA}")],
        [("authorization", "Basic " + base64.b64encode(b"anna").decode())],
        [("authorization", "Basic " + base64.b64encode(b"\xff:x").decode())],
        [basic("anna", BEN)],
        [basic("anna", ANNA), basic("anna", ANNA)],
    ):
        answer = ask(guard, "/config", [HOME, *given])
        assert answer.status == 401
        assert not answer.header("www-authenticate").startswith("Basic")  # browsers would ask
    assert ask(guard, kind="websocket").status == 403
    assert not app.scopes


def test_each_request_says_whose_it_is(guard, app):
    for name, password in (("anna", ANNA), ("BEN", BEN)):
        assert ask(guard, headers=[HOME, basic(name, password)]).status == 200
        session = cookie_of(log_in(guard, name, password))
        assert ask(guard, headers=[HOME, session]).status == 200
    assert [scope[ACCOUNT] for scope in app.scopes] == ["anna", "anna", "ben", "ben"]


def test_a_session_comes_before_a_password_and_ends_alone(guard, app):
    anna, ben = cookie_of(log_in(guard, "anna", ANNA)), cookie_of(log_in(guard, "ben", BEN))
    assert ask(guard, headers=[HOME, anna, basic("ben", BEN)]).status == 200
    assert app.scopes[-1][ACCOUNT] == "anna"
    assert ask(guard, "/logout", [HOME, anna], "POST").status == 303
    assert ask(guard, headers=[HOME, anna]).status == 401
    assert ask(guard, headers=[HOME, ben]).status == 200


def test_a_wrong_name_or_password_is_told_alike(guard):
    said = set()
    for n, (name, password) in enumerate((("anna", BEN), ("carl", ANNA), ("", ""))):
        answer = log_in(guard, name, password, (HOME, FORM, BROWSER), client=f"10.0.0.{n}")
        assert answer.status == 401
        assert answer.header("set-cookie") is None
        said.add(answer.body)
    assert len(said) == 1


def test_guessing_one_name_is_slowed_from_all_addresses(guard):
    answers = [log_in(guard, "anna", "guess", client=f"10.0.{n}.7").status for n in range(24)]
    assert answers == [401] * 20 + [429] * 4
    assert log_in(guard, "anna", ANNA, client="10.1.0.7").status == 429
    assert log_in(guard, "ben", BEN, client="10.1.0.7").status == 303


def test_guessing_from_one_address_is_slowed_for_all_names(guard):
    answers = [log_in(guard, f"name{n}", "guess").status for n in range(7)]
    assert answers == [401] * 5 + [429] * 2
    assert ask(guard, headers=[HOME, basic("anna", ANNA)]).status == 429
    assert ask(guard, headers=[HOME, basic("anna", ANNA)], client="10.0.0.8").status == 200


def test_a_session_of_a_removed_account_ends_with_the_next_start(app, guard):
    ben = cookie_of(log_in(guard, "ben", BEN))
    again = Guard(app, Doors(accounts=ACCOUNTS[:1]), drawn)
    for given in (ben, basic("ben", BEN)):
        assert ask(again, headers=[HOME, given]).status == 401


def test_what_is_said_of_it():
    doors = decide("0.0.0.0", accounts=ACCOUNTS, environment={"T2LOCAL_TOKEN": "token"})
    assert doors.password is None
    assert not doors.invented
    assert "it asks for a name and a password (owners: 1, guests: 1)" in doors.statement
    assert not doors.warning
    assert ACCOUNTS[0].secret not in repr(doors)
    assert decide("127.0.0.1", accounts=ACCOUNTS, environment={}).asks


@pytest.mark.parametrize("wish", [{"password": "words"}, {"no_password": True}])
def test_accounts_and_one_password_do_not_go_together(wish):
    with pytest.raises(T2LocalError, match="each person has a password"):
        decide("127.0.0.1", accounts=ACCOUNTS, **wish, environment={})
