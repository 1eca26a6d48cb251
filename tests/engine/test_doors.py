"""What is decided at the start: names, passwords, and what is said of them."""

import socket
import threading

import pytest

from t2local.engine import doors
from t2local.engine.doors import Authority, Doors, decide
from t2local.errors import T2LocalError


def decided(host="127.0.0.1", port=7860, *, environment=None, **wishes):
    return decide(host, port, environment=environment or {}, **wishes)


@pytest.fixture(autouse=True)
def _a_computer_named_study(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Study")
    monkeypatch.setattr(socket, "getfqdn", lambda: "study.example.org.")
    found = ["fe80::1%eth0", "10.0.0.5", "aa:bb:cc:dd:ee:ff"]
    monkeypatch.setattr(
        doors.psutil, "net_if_addrs", lambda: {"eth0": [_Address(t) for t in found]}
    )


class _Address:
    def __init__(self, address):
        self.address = address


def test_the_doors_open_for_this_computers_names_and_those_given():
    alone = decided()
    assert not (alone.listens)
    assert not (alone.proxied)
    assert not (alone.names)
    listening = decided("0.0.0.0")
    assert listening.listens
    assert listening.names == doors.names_of_this_computer()
    given = decided("::1", allow_hosts=["A.org:443", "::2"])
    assert given.names == {"a.org", "::2"}
    assert given.proxied
    assert not given.listens
    assert "10.0.0.9" in decided("10.0.0.9").names


def test_this_computers_names_are_what_others_call_it():
    expected = {"study", "study.local", "study.example.org", "10.0.0.5", "fe80::1"}
    assert doors.names_of_this_computer() == expected
    assert doors.addresses_of_this_computer() == ["10.0.0.5", "fe80::1"]


def test_a_network_that_does_not_answer_is_not_waited_for(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(doors, "NAME_S", 0.05)
    monkeypatch.setattr(socket, "getfqdn", answered.wait)
    assert "study" in doors.names_of_this_computer()
    assert not answered.is_set()
    answered.set()


@pytest.mark.parametrize("name", ["https://a.org", "a.org/t2", "a b", "", "*", "user@a.org"])
def test_a_host_name_that_is_none(name):
    with pytest.raises(T2LocalError, match="no name of a host"):
        decided(allow_hosts=[name])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_alone_there_is_no_password_but_one_that_was_chosen(host):
    assert decided(host).password is None
    assert decided(host, password="words").password == "words"
    assert decided(host, environment={"T2LOCAL_TOKEN": "token"}).password == "token"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "study"])
def test_where_others_can_come_there_is_a_password(host):
    first, second = decided(host), decided(host)
    assert len(first.password) >= 16
    assert first.password != second.password
    assert first.invented
    assert not decided(host, password="words").invented
    assert decided(host, environment={"T2LOCAL_TOKEN": "token"}).password == "token"
    both = decided(host, password="words", environment={"T2LOCAL_TOKEN": "token"})
    assert both.password == "words"
    assert decided(host, environment={"T2LOCAL_TOKEN": ""}).invented


def test_a_proxy_lets_others_in_as_well():
    assert decided(allow_hosts=["example.org"]).invented


def test_none_is_possible_and_warned_of():
    without = decided("0.0.0.0", no_password=True, environment={"T2LOCAL_TOKEN": "token"})
    assert without.password is None
    assert "No password" in without.warning
    assert not decided("0.0.0.0").warning
    assert not decided(no_password=True).warning


@pytest.mark.parametrize("wishes", [{"password": "a", "no_password": True}, {"password": " "}])
def test_a_password_that_cannot_be_meant(wishes):
    with pytest.raises(T2LocalError, match="password"):
        decided(**wishes)


def test_a_password_is_nowhere_in_what_is_said():
    for one in (decided("0.0.0.0", password="words"), Doors(password="words")):
        assert "words" not in repr(one) + one.statement + one.warning


def test_the_statement_says_who_and_how():
    assert decided().statement == (
        "Only this computer can open the page; it asks for no password, and answers to "
        "127.0.0.1, ::1, localhost."
    )
    assert "Other computers can open the page; it asks for a password" in decided("::").statement
    assert "through a reverse proxy" in decided(allow_hosts=["example.org"]).statement


@pytest.mark.parametrize(
    ("given", "path", "names"),
    [
        ("", "", set()),
        ("/", "", set()),
        ("/t2", "/t2", set()),
        ("/a/t2/", "/a/t2", set()),
        ("https://Example.org/t2", "/t2", {"example.org"}),
        ("http://example.org:8080", "", {"example.org"}),
    ],
)
def test_a_proxys_path_is_a_path_or_a_whole_address(given, path, names):
    public = decided(root_path=given)
    assert (public.root_path, public.names) == (path, names)
    assert public.proxied == public.invented == bool(path or names)


@pytest.mark.parametrize(
    "given",
    ["t2", "//example.org/t2", "/t2?x", "/t2#x", "/a b", "ftp://a.org/t2", "/t2\r\nX: y",
     "/../t2;a", "https:///t2", "https://user@a.org/t2", '/"onload=x'],
)  # fmt: skip
def test_a_proxys_path_that_is_none(given):
    with pytest.raises(T2LocalError, match=r"is no (path to the page|name of a host)"):
        decided(root_path=given)


def test_names_may_come_from_the_environment():
    found = decided(environment={"T2LOCAL_ALLOW_HOSTS": "class.example, 192.168.1.20"})
    assert found.opens_for(Authority("class.example"), "127.0.0.1")
    assert found.opens_for(Authority("192.168.1.20", 7860), "172.17.0.2")
    assert found.password
