"""`accounts`: adding, listing, removing, from a terminal and from a pipe."""

import io
import json
from types import SimpleNamespace

import pytest

from t2local.cli import accounts as command
from t2local.cli.main import main
from t2local.engine.people import matches, read_accounts


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def it(*arguments, said="words of the house\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        status = main(["accounts", str(tmp_path / "people.txt"), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return it


def test_accounts_are_added_listed_and_removed(run, tmp_path):
    assert run("add", "Anna", "--owner")[0] == 0
    status, out, _ = run("add", "ben", "--json")
    assert (status, json.loads(out)["role"]) == (0, "guest")
    assert json.loads(run("list", "--json")[1]) == {
        "accounts": [{"name": "anna", "role": "owner"}, {"name": "ben", "role": "guest"}]
    }
    assert run("list")[1].split() == ["anna", "owner", "ben", "guest"]
    anna = read_accounts(tmp_path / "people.txt")[0]
    assert matches(b"words of the house", anna.secret)
    assert run("remove", "ben")[0] == 0
    assert run("list")[1].split() == ["anna", "owner"]


def test_what_cannot_be_is_one_sentence(run):
    assert run("add", "anna", "--owner")[0] == 0
    for arguments, said in (
        (("add", "anna"), "words of the house"),
        (("add", "carl"), "short"),
        (("add", "carl"), ""),
        (("add", "an.na"), "words of the house"),
        (("remove", "anna"), ""),
        (("remove", "carl"), ""),
    ):
        status, out, error = run(*arguments, said=said)
        assert (status, out) == (1, "")
        assert len(error.splitlines()) == 1
        assert "words of the house" not in error


def test_a_terminal_is_asked_twice(run, tmp_path, monkeypatch):
    answers = iter(["words of the house", "words of the mouse", *["words of the house"] * 2])
    monkeypatch.setattr(command, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    status, _, error = run("add", "anna", "--owner")
    assert (status, "differ" in error) == (1, True)
    assert not (tmp_path / "people.txt").exists()
    assert run("add", "anna", "--owner")[0] == 0
    assert next(answers, None) is None
