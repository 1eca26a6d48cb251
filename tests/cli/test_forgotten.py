"""`experts forgotten`: what an expert does to others' tasks, through the command line."""

import json

from t2local.cli.main import main
from t2local.tasks.rows import Example
from t2local.training.validation import OtherTask

COLUMNS = {"choices": ["blue", "red"], "label": 1}
TASK = OtherTask("colours", tuple(Example(f"thing {i}?", "red", COLUMNS) for i in range(4)))


def test_it_is_said_and_stands_on_the_card(capsys, library, source, monkeypatch):
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: (TASK,))
    assert main(["experts", "forgotten", "counting", "--model", source, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(f["task"], f["n"]) for f in said["forgetting"]] == [("colours", 4)]
    assert library.load("counting").forgetting[0].n == 4


def test_one_that_is_not_there_is_named(capsys, library, source):
    assert main(["experts", "forgotten", "nobody", "--model", source, "--json"]) == 1
    assert "'nobody'" in capsys.readouterr().err
