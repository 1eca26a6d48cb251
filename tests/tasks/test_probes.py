"""The questions of our own: well-formed, balanced, unlike each other, from no benchmark."""

import itertools
import json
import re
from collections import Counter

import pytest

from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.tasks.benchmarks import TASKS, load_task
from t2local.tasks.datasets import FILES, HELD_OUT, PROBES, TOPICS, probes, small_talk
from t2local.tasks.rewards import REWARDS
from t2local.tasks.sandbox import run_tests

SETS = probes()
FIRST_LINE = re.compile(r"[a-z']+")


def words(prompt: str) -> frozenset[str]:
    """What a question asks, without the tests or lettered answers below it."""
    return frozenset(FIRST_LINE.findall(prompt.split("\n")[0].lower()))


def alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(len(one | other), 1)


def test_every_shipped_expert_has_its_questions():
    shipped = {f.path.stem for f in ExpertStore("SmolLM2-135M-Instruct").files() if f.shipped}
    assert shipped == set(SETS)


@pytest.mark.parametrize("expert", FILES)
def test_sixty_different_questions_with_one_right_answer_each(expert):
    rows = SETS[expert]
    assert len({row.prompt for row in rows}) == len(rows) == 60
    for row in rows:
        choices, label = row.columns["choices"], row.columns["label"]
        assert len(set(choices)) == len(choices) == 4, row.prompt
        assert choices[label] == row.answer, row.prompt
        scores = REWARDS["choice"]([""] * 4, choices, choices=[choices] * 4, label=[label] * 4)
        assert [i for i, score in enumerate(scores) if score == 1] == [label], row.prompt


@pytest.mark.parametrize("expert", FILES)
def test_the_right_answer_is_as_often_at_each_place(expert):
    places = Counter(row.columns["label"] for row in SETS[expert])
    assert places == dict.fromkeys(range(4), 15)


def test_every_equation_is_true_and_the_right_one_is_of_the_numbers_in_the_problem():
    for row in SETS["math"]:
        for choice in row.columns["choices"]:
            left, right = choice.split(" = ")
            assert re.fullmatch(r"[\d. +*/()-]+", left), choice
            assert eval(left) == pytest.approx(float(right)), choice
        asked = set(re.findall(r"\d+", row.prompt))
        assert set(re.findall(r"\d+", row.answer.split(" = ")[0])) <= asked, row.prompt


def test_the_right_program_passes_the_test_that_is_shown():
    for row in SETS["code"]:
        test = row.prompt.partition("Your code should pass this test:\n")[2]
        assert run_tests(row.answer, [test], timeout_s=5.0).ok, row.prompt


def test_the_kinds_of_message_are_those_of_the_dispatcher():
    assert all(tuple(row.columns["choices"]) == TOPICS for row in SETS["classifier"])


def test_no_question_resembles_another_one_or_our_small_talk():
    ours = [words(row.prompt) for rows in SETS.values() for row in rows]
    talk = [words(prompt) for split in ("train", HELD_OUT) for prompt in small_talk(split)]
    for one, other in itertools.chain(
        itertools.combinations(ours, 2), itertools.product(ours, talk)
    ):
        assert alike(one, other) < 0.7, (one, other)


def test_no_question_is_a_benchmarks_row(data_folder):
    theirs = {
        words(row.prompt)
        for task in TASKS.values()
        for split in task.splits
        for row in load_task(task.name, split, data_folder)
        if task.name != "humaneval"  # their first line says nothing of what is asked
    }
    for row in itertools.chain(*SETS.values()):
        assert words(row.prompt) not in theirs, row.prompt


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", '{"prompt": "a"}', '{"prompt":"a","answer":"b","choices":["c"],"label":0}',
     '{"prompt":"a","answer":"b","choices":["b"],"label":3}'],
)  # fmt: skip
def test_a_damaged_file_is_said_with_the_way_out(tmp_path, line):
    for file in FILES.values():
        (tmp_path / file).write_bytes((PROBES / file).read_bytes())
    (tmp_path / "code.jsonl").write_text(line)
    with pytest.raises(T2LocalError, match=r"code\.jsonl.*restore"):
        probes(tmp_path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(T2LocalError, match="restore"):
        probes(tmp_path)


def test_the_files_are_plain_json_lines():
    for file in FILES.values():
        for line in (PROBES / file).read_text(encoding="utf-8").splitlines():
            assert set(json.loads(line)) == {"prompt", "answer", "choices", "label"}
