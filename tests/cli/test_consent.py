"""`--allow-unsafe-code`: before anything is loaded, a run of programs is refused or said yes to."""

import json

import pytest

from t2local.cli.main import build_parser
from t2local.errors import T2LocalError
from t2local.evaluation import benchmark_tasks
from t2local.tasks import sandbox
from t2local.tasks.rewards import check_reward
from t2local.tasks.rows import Example
from t2local.tasks.sandbox import process

ROWS = [Example("Add one.", "", {"tests": ["assert f(1) == 2"]})]
COMMANDS = {
    "train": "train --data rows.jsonl --reward code --name x",
    "adapt": "adapt --data rows.jsonl --reward code --out m.json",
    "evaluate": "evaluate --task humaneval",
    "prove": "prove",
    "experts transfer": "experts transfer x --from embedded --model ID --data r.csv --reward code",
}


@pytest.fixture(autouse=True)
def _without_walls(monkeypatch):
    found = process.Protection(process.UNSAFE, process._UNCONTAINED)
    monkeypatch.setattr(process, "protection", lambda: found)
    sandbox.allow_unsafe_code(False)
    yield
    sandbox.allow_unsafe_code(False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_runs_programs_takes_a_yes(command):
    build_parser().parse_args(COMMANDS[command].split())
    assert not sandbox.is_unsafe_code_allowed()
    build_parser().parse_args([*COMMANDS[command].split(), "--allow-unsafe-code"])
    assert sandbox.is_unsafe_code_allowed()


@pytest.mark.parametrize("reward", ["code", "code_partial", "code+0.2*length"])
def test_a_reward_that_runs_programs_is_refused_in_one_sentence(reward):
    with pytest.raises(T2LocalError, match=r"cannot be contained .*--allow-unsafe-code"):
        check_reward(reward, ROWS)
    sandbox.allow_unsafe_code()
    check_reward(reward, ROWS)


def test_no_other_reward_asks():
    check_reward("exact+0.2*length", [Example("1 + 1?", "2", {})])


def test_a_task_and_a_file_that_run_programs_are_refused_too(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "Add one.", "answer": "", "tests": ["assert f(1) == 2"]}
    path.write_text(json.dumps(row) + "\n")
    mbpp = benchmark_tasks.QuestionSet("mbppplus", "code", (), benchmark_tasks.PROGRAM)
    monkeypatch.setitem(benchmark_tasks.BENCHMARKS, "mbppplus", lambda written: mbpp)
    for name in ("mbppplus", str(path)):
        with pytest.raises(T2LocalError, match="--allow-unsafe-code"):
            benchmark_tasks.question_set(name)
        sandbox.allow_unsafe_code()
        benchmark_tasks.question_set(name)
        sandbox.allow_unsafe_code(False)
