import io
import json
import sys

import pytest
import torch

from t2local import paths
from t2local.cli.main import main
from t2local.engine.chat_content import Chat, Message
from t2local.engine.doors import Doors
from t2local.engine.people import OWNER, add_account, new_account
from t2local.engine.verdicts import Verdicts
from t2local.experts import Expert, ExpertStore
from t2local.experts.versions import Versions
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.tasks.sandbox import protection


@pytest.fixture
def folder(tiny_folder):
    return str(tiny_folder("llama"))


@pytest.fixture
def skilled(folder):
    """The folder's model has one random expert, `math`."""
    loaded = drain(load_model(folder))
    svf = attach(loaded.model)
    z = {n: 1 + 0.3 * torch.rand(r) for n, r in svf.ranks.items()}
    ExpertStore(loaded.slug).save(Expert("math", loaded.name, svf.fingerprint(z), z))
    return folder


@pytest.fixture
def data(tmp_path):
    """A file of twenty choice questions."""
    rows = [
        {"prompt": f"colour {i}?", "answer": "red", "choices": ["blue", "red"], "label": 1}
        for i in range(20)
    ]
    path = tmp_path / "red.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def run(capsys, *argv):
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def last_line(text):
    return text.strip().splitlines()[-1]


def test_ask_prints_exactly_one_json_object(capsys, skilled):
    status, out, _ = run(
        capsys, "ask", "hello", "--model", skilled, "--alpha", "math=0.6", "--json",
        "--temperature", "0", "--max-new-tokens", "8", "--seed", "3",
    )  # fmt: skip
    answer = json.loads(out)
    assert status == 0
    assert set(answer) == {"answer", "dispatch", "timing", "model", "seed"}
    assert answer["dispatch"]["strategy"] == "manual"
    assert answer["dispatch"]["alpha"] == {"math": 0.6}
    assert set(answer["timing"]) == {"first_pass_s", "second_pass_s", "tokens", "tokens_per_s"}


def test_ask_says_on_stderr_what_came_from_8_bit_weights(capsys, skilled, monkeypatch):
    monkeypatch.setattr("t2local.engine.loading.ROUND_BYTES", 0)
    monkeypatch.setattr("t2local.models.decode.generate._stops", lambda loaded: set())
    ask = ("ask", "hello", "--model", skilled, "--json", "--temperature", "0")
    for precision, rounded in (("auto", True), ("exact", False)):
        _, out, err = run(capsys, *ask, "--max-new-tokens", "50", "--precision", precision)
        assert json.loads(out)["timing"]["tokens"] == 50
        assert ("49 of them from weights rounded to 8 bits" in err) == rounded


def test_ask_with_the_prompt_strategy_reports_probabilities(capsys, skilled):
    _, out, _ = run(
        capsys, "ask", "hello", "--model", skilled, "--strategy", "prompt", "--json",
        "--max-new-tokens", "4",
    )  # fmt: skip
    shares = json.loads(out)["dispatch"]["probabilities"]
    assert set(shares) == {"math", "other"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        (("--alpha", "maths=1"), "no expert 'maths'"),
        (("--alpha", "math"), "name=number"),
        (("--strategy", "classifier"), "no classifier expert"),
        (("--mixture", "missing.json"), "missing.json"),
        (("--temperature", "-1"), "temperature"),
        (("--alpha", "math=nan"), "must be a number"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_1(capsys, skilled, extra, word):
    status, out, err = run(capsys, "ask", "hello", "--model", skilled, *extra)
    assert status == 1
    assert last_line(err).startswith("error: ")
    assert word in last_line(err)
    assert out == ""


def test_an_empty_prompt_is_refused_before_a_model_is_loaded(capsys):
    status, _, err = run(capsys, "ask", "  ")
    assert status == 1
    assert "empty" in err


@pytest.mark.parametrize("prompt", ["caf\udce9", "\ud83d 😀", "\udce9 \U00100000"])
def test_a_prompt_that_is_no_utf_8_is_refused_before_a_model_is_loaded(capsys, prompt):
    status, _, err = run(capsys, "ask", prompt)
    assert status == 1
    assert "The prompt is not UTF-8 text" in last_line(err)
    assert "check your terminal" in last_line(err)


def test_usage_is_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ask"])
    assert stop.value.code == 2


def test_train_makes_an_expert_that_list_and_show_know(capsys, folder, data):
    status, out, _ = run(
        capsys, "train", "--data", data, "--reward", "choice", "--name", "red",
        "--steps", "2", "--learning-rate", "0.02", "--model", folder, "--json",
    )  # fmt: skip
    result = json.loads(out)
    assert status == 0
    assert {"expert", "run", "steps", "held_out", "reward_curve", "peak_memory_bytes"} <= set(
        result
    )
    assert set(result["held_out"]) == {"n", "base", "trained", "ci95_difference"}
    name = "tiny-llama"
    _, listed, _ = run(capsys, "experts", "list", "--model", name, "--json")
    assert [e["name"] for e in json.loads(listed)["experts"]] == ["red"]
    _, shown, _ = run(capsys, "experts", "show", "red", "--model", name, "--json")
    assert json.loads(shown)["training"]["steps"] == 2


def test_training_asks_before_it_learns_from_answers_that_are_wrong_by_the_reward(
    capsys, folder, tmp_path
):
    path = tmp_path / "sums.csv"
    path.write_text(
        "prompt,answer\n" + "".join(f"{i} + 1?,{i + 1}\n" for i in range(5)) + "6?,many\n"
    )
    command = ["train", "--data", str(path), "--reward", "numeric", "--name", "sums"]
    command += ["--steps", "1", "--max-new-tokens", "2", "--model", folder]
    status, out, err = run(capsys, *command)
    assert (status, out) == (1, "")
    assert "1 of 6 answers in your rows does not earn +1" in last_line(err)
    assert "--accept-gold" in last_line(err)
    status, _, err = run(capsys, *command, "--accept-gold")
    assert "'many'" in err
    assert "--accept-gold" not in err


def test_rows_from_chats_are_data_like_any_other_and_a_run_goes_on(capsys, home, folder):
    command = ["train", "--data", "chats", "--name", "mine", "--steps", "1", "--model", folder]
    status, _, err = run(capsys, *command)
    assert status == 1
    assert "no rows from chats yet" in last_line(err)

    def judge(numbers):
        for number in numbers:
            said = Message("user", f"Question {number}?"), Message("assistant", f"Long {number}.")
            chat = Chat(f"{number:016x}", messages=said)
            Verdicts(paths.chats_dir()).rewrite(chat, 1, f"Short {number}.", "tiny")

    judge(range(7))
    status, out, err = run(capsys, *command, "--json")
    assert status == 0, err
    assert "7 choices: 7 written, 0 preferred, 0 from thumbs" in err
    first = json.loads(out)
    assert first["prefers"] is True
    status, out, err = run(capsys, *command, "--from", "mine", "--json")
    assert status == 1
    assert "were learnt by 'mine' already" in last_line(err)
    judge(range(7, 14))
    status, out, err = run(capsys, *command, "--from", "mine", "--json")
    assert status == 0, err
    assert "Its own rows are among these." in err
    second = json.loads(out)
    assert second["expert"] == first["expert"], "its new version"
    assert second["since_start"]["n"] == first["held_out"]["n"]
    assert len(Versions(ExpertStore("tiny-llama")).of("mine")) == 1


def test_a_run_can_be_resumed_by_name_and_ends_with_the_same_expert(capsys, folder, data):
    _, out, _ = run(
        capsys, "train", "--data", data, "--reward", "choice", "--name", "red",
        "--steps", "3", "--checkpoint-every", "2", "--model", folder, "--json",
    )  # fmt: skip
    first = json.loads(out)
    status, out, _ = run(capsys, "train", "--resume", first["run"], "--json")
    again = json.loads(out)
    assert status == 0
    assert again["reward_curve"] == first["reward_curve"]
    assert again["held_out"] == first["held_out"]


def test_a_new_run_says_what_is_missing(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--name", "x"])
    assert stop.value.code == 2
    assert "--data is missing" in last_line(capsys.readouterr().err)


def test_an_unknown_expert_is_status_1(capsys):
    status, _, err = run(capsys, "experts", "show", "nobody", "--model", "tiny-llama")
    assert status == 1
    assert "no expert 'nobody'" in err


def test_letters_that_a_terminal_lacks_end_no_command(monkeypatch, folder):
    """A pipe on Windows takes its few local letters; a model and an expert's card write any."""
    loaded = drain(load_model(folder))
    svf = attach(loaded.model)
    z = svf.identity()
    card = Expert("math", loaded.name, svf.fingerprint(z), z, description="σ − 1 in 算術, café")
    ExpertStore(loaded.slug).save(card)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    assert main(["experts", "show", "math", "--model", folder]) == 0
    sys.stdout.flush()
    assert "? ? 1 in ??, café" in written.getvalue().decode("cp1252")


def test_doctor_reports_in_json_without_the_model(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert status == 0
    assert "not fetched yet" in report["embedded_model"]
    assert report["packages"]["torch"]
    assert report["decode"] == "the model is not here yet"
    assert report["sandbox"] == protection().statement
    assert "PyTorch products" in report["branch"] or "Triton" in report["branch"]


def test_doctor_says_that_accounts_are_in_force(capsys, monkeypatch, tmp_path):
    def said():
        return json.loads(run(capsys, "doctor", "--json")[1])["page_with_--listen"]

    file = tmp_path / "accounts.txt"
    add_account(file, new_account("anna", OWNER, "annas own words"))
    monkeypatch.setenv("T2LOCAL_ACCOUNTS", str(file))
    assert "it asks for a name and a password (owners: 1, guests: 0)" in said()
    file.write_text("anna")
    assert "Line 1 of 'accounts.txt' is no account" in said()


def test_doctor_says_who_could_open_the_page(capsys, monkeypatch):
    def said():
        report = json.loads(run(capsys, "doctor", "--json")[1])
        return report["page"], report["page_with_--listen"]

    for name in ("GRADIO_SERVER_NAME", "GRADIO_ROOT_PATH", "T2LOCAL_TOKEN", "T2LOCAL_ACCOUNTS"):
        monkeypatch.delenv(name, raising=False)
    alone, listening = said()
    assert alone == Doors().statement
    assert "Other computers can open the page; it asks for a password" in listening
    monkeypatch.setenv("T2LOCAL_TOKEN", "secret words")
    assert "it asks for a password" in said()[0]
    assert "secret words" not in str(said())
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert said()[0] == said()[1] == listening
    monkeypatch.setenv("GRADIO_ROOT_PATH", "no path")
    assert "is no path to the page" in said()[0]
