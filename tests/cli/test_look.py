"""`rows` and the flags by which any table is a way in, for every command that takes a file."""

import argparse
import json
import re
from pathlib import Path

import pytest

from t2local.cli import evaluate, train
from t2local.cli.look import add_rows_arguments, source_in, wanted_in
from t2local.cli.main import build_parser, main
from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import question_set
from t2local.tasks.files import DETECTED, Wanted, read_examples

MAILS = [(f"Parcel {i} did not arrive", ("billing", "shipping")[i % 2]) for i in range(12)]
FLAGS = ["--prompt-column", "subject", "--answer-column", "queue"]


def table(path, *head, rows=MAILS, encoding="utf-8"):
    """A table whose columns no rule knows by their names."""
    lines = [",".join(head), *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


@pytest.fixture
def mails(tmp_path):
    return table(tmp_path / "mails.csv", "subject", "queue")


def flags(*given):
    parser = argparse.ArgumentParser()
    add_rows_arguments(parser)
    return parser.parse_args(given)


def test_the_flags_say_all_that_can_be_wanted():
    assert wanted_in(flags()) == DETECTED
    given = [
        "--encoding", "cp1251", "--prompt-column", "a", "--answer-column", "b", "--context-column",
        "c", "--context-column", "d", "--label-names", "no, yes", "--no-header",
    ]  # fmt: skip
    assert wanted_in(flags(*given)) == Wanted("cp1251", "a", "b", ("c", "d"), ("no", "yes"), True)
    assert wanted_in(flags("--context-column", "none")).context == ()


@pytest.mark.parametrize(
    "command",
    [
        ["train"], ["adapt", "--data", "f", "--out", "o"], ["evaluate"], ["rows", "f"],
        ["experts", "transfer", "x", "--from", "m"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_that_takes_a_file_takes_them(command):
    asked = [*FLAGS, "--encoding", "cp1251", "--no-header", "--leave-out-bad-rows"]
    arguments = build_parser().parse_args([*command, *asked])
    assert wanted_in(arguments) == Wanted("cp1251", "subject", "queue", without_header=True)
    assert arguments.leave_out_bad_rows


def test_what_work_reads_later_needs_no_flags(mails, capsys):
    source = source_in(mails, flags(*FLAGS))
    assert source != mails
    assert [(e.prompt, e.answer) for e in read_examples(Path(source)).examples] == MAILS


def test_a_file_that_is_read_as_it_is_stays_where_it_is(tmp_path):
    path = table(tmp_path / "plain.csv", "prompt", "answer")
    assert source_in(path, flags()) == path


def test_bad_rows_stop_every_command_and_the_flag_leaves_them_out(tmp_path, capsys):
    rows = [("", "billing"), *MAILS]
    path = table(tmp_path / "plain.csv", "prompt", "answer", rows=rows)
    with pytest.raises(T2LocalError, match=r"row 2 .*--leave-out-bad-rows"):
        source_in(path, flags())
    source = source_in(path, flags("--leave-out-bad-rows"))
    assert len(read_examples(Path(source)).examples) == len(MAILS)
    assert "1 row left out, the first is row 2" in capsys.readouterr().err


def test_a_mistake_is_one_line_with_the_flag_that_mends_it(tmp_path, capsys):
    path = table(tmp_path / "odd.csv", "zip", "zap", rows=[("a b", "c d"), ("e f", "g h")])
    for given, flag in (
        ([], "--prompt-column"),
        (["--prompt-column", "zip"], "--answer-column"),
        (["--prompt-column", "zip", "--answer-column", "gone"], "--answer-column"),
    ):
        assert main(["rows", path, *given]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert flag in line


@pytest.mark.parametrize(
    "given",
    [
        ["--prompt-column", "subject", "--answer-column", "subject"],
        [*FLAGS, "--context-column", "queue"],
        [*FLAGS, "--context-column", "subject"],
    ],
)
def test_a_column_is_named_for_one_thing(given, mails, capsys):
    assert main(["rows", mails, *given]) == 1
    assert "would be two things at once" in capsys.readouterr().err
    with pytest.raises(T2LocalError, match="two things at once"):
        source_in(mails, flags(*given))


def test_rows_shows_turns_and_what_is_wrong_without_a_model(tmp_path, capsys):
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "How many legs has an ant?\nAnd a spider?"},
        {"role": "assistant", "content": "6 and 8"},
    ]
    lines = [{"messages": turns}, {"messages": turns[:1]}]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert main(["rows", str(path)]) == 1
    said = capsys.readouterr()
    assert "  system: Be short.\n  user: How many legs has an ant?\n    And a spider?" in said.out
    assert "  answer: 6 and 8" in said.out
    assert re.search(r"row 2: \w+", said.out)
    assert said.err.startswith("error: 1 bad row is in 'chat.jsonl'")
    assert main(["rows", str(path), "--leave-out-bad-rows"]) == 0


def test_rows_as_json_is_one_object_of_a_good_and_of_a_bad_file(mails, tmp_path, capsys):
    assert main(["rows", mails, *FLAGS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompt"], found["answer"], found["rows"]) == ("subject", "queue", 12)
    assert found["first"][0] == {
        "turns": [{"role": "user", "content": MAILS[0][0]}], "answers": ["billing"],
    }  # fmt: skip
    assert (found["reward"], found["problem"]) == ("choice", "")
    assert [row["reward"] for row in found["trial"]] == [1.0] * 3 + [-1.0] * 3
    odd = table(tmp_path / "odd.csv", "zip", "zap", rows=[("a b", "c d"), ("e f", "g h")])
    assert main(["rows", odd, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["usable"], found["columns"]) == (False, ["zip", "zap"])
    assert found["first"][0] == {"zip": "a b", "zap": "c d"}


def test_rows_says_what_answers_earn_under_the_reward_that_is_suggested(tmp_path, capsys):
    path = table(tmp_path / "plain.csv", "prompt", "answer")
    assert main(["rows", path]) == 0
    said = capsys.readouterr().out
    assert "reward choice: " in said
    assert "right answers earn +1 +1 +1\n  wrong ones -1 -1 -1" in said


def test_no_control_character_of_a_file_reaches_the_terminal(tmp_path, capsys):
    path = tmp_path / "hostile.jsonl"
    rows = ({"prompt": f"\x1b[2J{i}\nx\x07", "answer": "\x9b1m"} for i in range(6))
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert main(["rows", str(path)]) == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", capsys.readouterr().out)


def test_flags_for_a_file_are_not_lost_on_a_dataset(capsys):
    assert main(["train", "--data", "arc-easy", "--name", "x", *FLAGS]) == 1
    assert "'arc-easy' is no file" in capsys.readouterr().err
    assert main(["evaluate", "--task", "gsm8k", "--no-header"]) == 1
    assert "'gsm8k' is no file" in capsys.readouterr().err


def test_adapt_searches_on_columns_that_were_chosen(mails, tmp_path, tiny_folder, capsys):
    given = ["--model", str(tiny_folder("llama")), "--data", mails, "--out", str(tmp_path / "m")]
    assert main(["adapt", *given, "--reward", "choice"]) == 1
    assert main(["adapt", *given, "--reward", "choice", *FLAGS]) == 1
    assert "no expert to mix" in capsys.readouterr().err, "the rows were taken"


def test_a_run_goes_on_without_the_flags(mails):
    given = ["--data", mails, "--name", "mails", "--reward", "choice", *FLAGS]
    arguments = build_parser().parse_args(["train", *given])
    plan = train._plan(arguments)
    assert [e.prompt for e in read_examples(Path(plan.source)).examples] == [m for m, _ in MAILS]


def test_an_evaluation_measures_on_columns_that_were_chosen(mails):
    plan = evaluate._plan(
        build_parser().parse_args(["evaluate", "--task", f"gsm8k,{mails}", *FLAGS])
    )
    assert plan.tasks[0] == "gsm8k"
    questions = question_set(plan.tasks[1]).questions
    assert [question.user for question in questions] == [mail for mail, _ in MAILS]


def test_a_header_alone_is_not_said_to_be_a_row(tmp_path, capsys):
    path = tmp_path / "head.csv"
    path.write_text("prompt,answer\n")
    assert main(["rows", str(path)]) == 1
    said = capsys.readouterr().err
    assert "'head.csv' has no rows" in said
    assert "--no-header" not in said
