"""`experts`: every action through the command line, without a model."""

import json

import pytest

from t2local.cli.main import main
from t2local.experts import Library
from t2local.svf import attach
from tests.experts.support import MODEL, small_expert


@pytest.fixture
def library(tiny):
    library = Library(MODEL)
    library.save(small_expert(attach(tiny("llama"))))
    return library


@pytest.fixture
def experts(capsys, library):
    """`experts(action, ...)`: status and the JSON object on stdout."""

    def run(*argv):
        status = main(["experts", *argv, "--model", MODEL, "--json"])
        out = capsys.readouterr().out
        return status, json.loads(out) if out else None

    return run


def names(library):
    return [stored.expert.name for stored in library.files()]


def test_rename_duplicate_delete_restore(experts, library):
    assert experts("rename", "counting", "legs") == (0, {"renamed": "counting", "expert": "legs"})
    assert experts("duplicate", "legs")[1]["expert"] == "legs-copy"
    assert experts("delete", "legs")[1]["undo"].endswith("experts restore legs")
    assert names(library) == ["legs-copy"]
    assert experts("restore", "legs")[1] == {"expert": "legs"}
    assert names(library) == ["legs", "legs-copy"]


def test_compare_tells_facts_and_likeness(experts, capsys):
    experts("duplicate", "counting", "twin")
    _, compared = experts("compare", "counting", "twin")
    assert [facts["name"] for facts in compared["experts"]] == ["counting", "twin"]
    assert compared["likeness"][0]["overall"] == pytest.approx(1)
    assert main(["experts", "compare", "counting", "twin", "--model", MODEL]) == 0
    assert "counting · twin: +1.00" in capsys.readouterr().out


def test_options_may_stand_before_the_action(library, capsys):
    assert main(["experts", "--model", MODEL, "--json", "list"]) == 0
    assert json.loads(capsys.readouterr().out)["experts"][0]["name"] == "counting"


@pytest.mark.parametrize(
    "argv", [("rename", "nobody", "x"), ("compare", "counting"), ("duplicate", "counting", "base")]
)
def test_a_mistake_is_status_1_and_prints_nothing(experts, argv):
    assert experts(*argv) == (1, None)


def test_an_action_is_needed():
    with pytest.raises(SystemExit) as stop:
        main(["experts"])
    assert stop.value.code == 2
