"""Pictures on the command line: train on them, evaluate, and ask about one."""

import json

import pytest

from t2local.__main__ import main
from tests.pictures import painted

pytestmark = pytest.mark.usefixtures("no_forgetting")


@pytest.fixture
def no_forgetting(monkeypatch):
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: ())


@pytest.fixture
def data(tmp_path):
    """Ten rows, each about a picture of its own, whose colour is the answer."""
    rows = []
    for i in range(10):
        colour = ("red", "blue")[i % 2]
        (tmp_path / str(i)).mkdir()
        painted(tmp_path / str(i), colour, (30 + i, 30))
        rows.append({"prompt": "colour?", "answer": colour, "image": f"{i}/{colour}.png"})
    path = tmp_path / "vqa.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_train_evaluate_and_ask_with_pictures(capsys, llava_folder, data, tmp_path):
    model = ("--model", llava_folder, "--json")
    status, out, err = run(
        capsys, "train", "--data", data, "--reward", "choice", "--name", "colours",
        "--steps", "2", "--learning-rate", "0.05", *model,
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["steps"] == 2
    status, out, err = run(
        capsys, "evaluate", "--task", data, "--strategies", "base,colours", *model
    )
    assert status == 0, err
    assert [row["n"] for row in json.loads(out)["rows"]] == [10, 10]
    picture = painted(tmp_path, "green")
    status, out, err = run(
        capsys, "ask", "what?", "--image", picture, "--image", picture, "--alpha", "colours=1",
        "--max-new-tokens", "3", *model,
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["dispatch"]["alpha"] == {"colours": 1.0}


def test_a_missing_picture_is_one_line(capsys, llava_folder):
    status, _, err = run(capsys, "ask", "what?", "--image", "gone.png", "--model", llava_folder)
    assert status == 1
    assert "'gone.png' cannot be read" in err.strip().splitlines()[-1]


def test_a_picture_before_a_text_only_model_is_one_line(capsys, tiny_folder, tmp_path):
    red = painted(tmp_path, "red")
    status, _, err = run(capsys, "ask", "what?", "--image", red, "--model", tiny_folder())
    assert status == 1
    assert "reads text only" in err.strip().splitlines()[-1]
