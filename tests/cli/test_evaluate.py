import json

import pytest

from t2local.cli.main import main
from t2local.evaluation.benchmark_tasks import OWN


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.csv"
    lines = [f"thing {i}?,{('red', 'blue')[i % 2]}" for i in range(8)]
    path.write_text("\n".join(["prompt,answer", *lines]), encoding="utf-8")
    return str(path)


def test_evaluate_gives_designs_object_and_its_files(tiny_folder, rows, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["evaluate", "--task", rows, "--model", str(tiny_folder("llama")), "--limit", "5"]
    assert main([*given, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert {"task", "strategy", "n", "correct", "accuracy", "ci95"} <= row.keys()
    assert (row["task"], row["strategy"], row["n"]) == ("rows", "base", 5)
    assert row["accuracy"] == row["correct"] / 5
    assert found["model"].startswith("tiny-llama")
    assert json.loads((out / "results.json").read_text())["rows"] == found["rows"]
    assert main(given) == 0
    assert "| rows | base | 5 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name a task with --task"),
        (["--task", "gsm9k"], "did you mean 'gsm8k'"),
        (["--task", "ROWS", "--limit", "0"], "limit is 0"),
        (["--task", "ROWS", "--strategies", ","], "No strategy was given"),
    ],
)
def test_a_mistake_is_one_line_before_any_model_is_loaded(arguments, words, rows, capsys):
    given = [rows if part == "ROWS" else part for part in arguments]
    assert main(["evaluate", *given, "--model", "/nowhere"]) == 1
    *found, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("`", "encoding: ")) for line in found), "how the rows were read"
    assert words in error


def test_the_tasks_are_listed_with_what_needs_no_network(monkeypatch, tmp_path, capsys):
    (tmp_path / "svamp.test.jsonl").write_text("{}")
    monkeypatch.setenv("T2LOCAL_DATA", str(tmp_path))
    assert main(["evaluate", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [name for name, task in listed.items() if task["offline"]] == [
        "svamp",
        *(task.__name__ for task in OWN),
    ]
    assert len(listed) >= 9
