import json

import pytest
import torch

from t2local.cli.main import main
from t2local.experts import Expert, ExpertStore
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from tests.tasks.workbook_files import xlsx


@pytest.fixture
def skilled(tiny_folder):
    """A model with two random experts."""
    folder = str(tiny_folder("llama"))
    loaded = drain(load_model(folder))
    svf = attach(loaded.model)
    for name in ("math", "code"):
        z = {n: 1 + 0.3 * torch.rand(r) for n, r in svf.ranks.items()}
        ExpertStore(loaded.slug).save(Expert(name, loaded.name, svf.fingerprint(z), z))
    return folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "red.jsonl"
    rows = ({"prompt": f"colour {i}?", "answer": ("red", "blue")[i % 2]} for i in range(6))
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_adapt_writes_a_mixture_that_ask_answers_with(skilled, data, tmp_path, capsys):
    out = str(tmp_path / "mixture.json")
    size = ["--population", "5", "--generations", "2", "--per-layer"]
    given = ["--model", skilled, "--data", data, "--reward", "choice", "--out", out]
    assert main(["adapt", *given, *size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mixture"] == out
    assert (found["shots"], found["evaluations"]) == (6, 60)
    ask = ["ask", "hello", "--model", skilled, "--mixture", out, "--max-new-tokens", "2", "--json"]
    assert main([*ask, "--strategy", "few-shot"]) == 0
    dispatch = json.loads(capsys.readouterr().out)["dispatch"]
    assert (dispatch["strategy"], dispatch["alpha"]) == ("few-shot", found["alpha"])


def test_mistakes_are_one_line(skilled, tmp_path, capsys):
    path = tmp_path / "few.csv"
    path.write_text("prompt,answer\na,b\nc,d\n", encoding="utf-8")
    given = ["--model", skilled, "--data", str(path), "--out", str(tmp_path / "m.json")]
    assert main(["adapt", *given]) == 1
    assert "2 examples" in capsys.readouterr().err
    assert main(["ask", "hello", "--strategy", "few-shot"]) == 1
    assert "few-shot needs --mixture FILE" in capsys.readouterr().err
    (tmp_path / "m.json").write_text('{"alpha": {"gone": 1}}', encoding="utf-8")
    ask = ["ask", "hello", "--model", skilled, "--mixture", str(tmp_path / "m.json")]
    assert main([*ask, "--strategy", "few-shot"]) == 1
    assert "names the expert 'gone'" in capsys.readouterr().err


def test_a_search_takes_a_sum_of_rewards_and_says_which_sheet_it_read(skilled, tmp_path, capsys):
    rows = [["prompt", "answer"], *([f"colour {i}?", ("red", "blue")[i % 2]] for i in range(6))]
    path, out = tmp_path / "red.xlsx", str(tmp_path / "mixture.json")
    path.write_bytes(xlsx({"Mails": rows, "Old": rows}))
    given = ["--model", skilled, "--data", str(path), "--out", out]
    size = ["--population", "4", "--generations", "1"]
    assert main(["adapt", *given, *size, "--reward", "choice+0.5*exact", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["reward"] == "choice+0.5*exact"
    assert "Only the sheet 'Mails' is read" in said.err
    assert main(["adapt", *given, "--reward", "choise"]) == 1
    assert "did you mean 'choice'?" in capsys.readouterr().err
