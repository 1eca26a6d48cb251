"""What rewards give the rows' own answers and wrong ones, before anybody learns from them."""

from collections import OrderedDict
from dataclasses import replace

import pytest

from t2local.errors import T2LocalError
from t2local.tasks import uploads
from t2local.tasks.rewards import MOST_TRIED
from t2local.tasks.rows import Example
from t2local.tasks.uploads import Trial, try_reward
from tests.tasks.test_uploads import rows, several


def test_a_trial_shows_three_gold_answers_and_three_of_other_rows():
    examples = rows(["Paris", "Rome", "Lima", "Oslo", "Cairo"])
    trial = try_reward("contains", examples)
    assert [tried.gold for tried in trial.rows] == [True] * 3 + [False] * 3
    assert [tried.reward for tried in trial.rows] == [1.0] * 3 + [-1.0] * 3
    assert [tried.said for tried in trial.rows[:3]] == ["Paris", "Rome", "Lima"]
    assert all(tried.said != tried.wanted for tried in trial.rows[3:])
    assert {tried.said for tried in trial.rows} <= {e.answer for e in examples}


def test_gold_that_does_not_earn_one_is_named_and_shown_first():
    trial = try_reward("numeric", rows([*map(str, range(300)), "a handful"]))
    assert trial.problem == (
        "1 of 301 answers in your rows does not earn +1 under 'numeric', the first is 'a handful' "
        "(asked 'question 300?'); choose another reward or mend them."
    )
    assert (trial.rows[0].said, trial.rows[0].reward) == ("a handful", None)


def test_a_reward_that_cannot_tell_answers_apart_is_a_problem():
    trial = try_reward("contains", rows(["Korea", "South Korea", "France", "Peru"]))
    assert "'South Korea' where 'Korea' is wanted" in trial.problem
    assert any(tried.reward == 1.0 and not tried.gold for tried in trial.rows)
    assert not try_reward("exact", rows(["Korea", "South Korea", "France", "Peru"])).problem


def test_an_answer_that_is_also_right_is_no_wrong_one():
    accepted = several(["Melville", "Herman Melville"], ["Herman Melville", "Melville"], ["Poe"])
    assert not try_reward("exact", accepted).problem
    equal = rows(["2,000", "2000", "2000.0", "7"])
    assert not try_reward("numeric", equal).problem
    assert [t.said for t in try_reward("numeric", rows(["4", "4.0"])).rows] == ["4", "4.0"]


def test_a_choice_is_tried_on_the_rows_own_choices():
    lettered = [Example(f"{i}?", "B", {"choices": ["a cat", f"dog {i}"]}) for i in range(5)]
    trial = try_reward("choice", lettered)
    assert [t.said for t in trial.rows[3:]] == ["a cat"] * 3
    assert not trial.problem
    labelled = [Example(f"{i}?", "", {"choices": ["a cat", "a dog"], "label": 1}) for i in range(5)]
    assert [t.said for t in try_reward("choice", labelled).rows[:3]] == ["a dog"] * 3


@pytest.mark.parametrize(
    ("reward", "answers"),
    [("regex", [r"\d+", "[a-z]+"]), ("length", ["5-20", "10"]), ("contains+regex", ["a", "b"])],
)
def test_where_nobody_knows_a_right_answer_nothing_is_tried(reward, answers):
    assert try_reward(reward, rows(answers)) == Trial(())


def test_a_program_is_tried_by_its_tests():
    def programs(body):
        return [
            Example(
                f"{i}?", f"def f{i}(): return {body or i}", {"tests": [f"assert f{i}() == {i}"]}
            )
            for i in range(4)
        ]

    examples = programs("")
    assert [t.reward for t in try_reward("code", examples).rows] == [1.0] * 3 + [-1.0] * 3
    assert "4 of 4 answers in your rows do not earn" in try_reward("code", programs("9")).problem
    assert try_reward("code", [replace(e, answer="") for e in examples]) == Trial(())


def test_of_very_many_rows_some_are_tried_and_that_is_said():
    trial = try_reward("exact", rows(map(str, range(MOST_TRIED + 1))))
    assert (trial.sample, trial.problem) == ("10,000 of 10,001 rows were tried.", "")
    assert try_reward("math", rows(map(str, range(51)))).sample == "50 of 51 rows were tried."
    assert not try_reward("math", rows(map(str, range(50)))).sample


def test_equal_rows_are_tried_once_under_a_reward(monkeypatch):
    calls = []
    rewards_of = uploads.rewards_of
    monkeypatch.setattr(uploads, "rewards_of", lambda *a: calls.append(a) or rewards_of(*a))
    monkeypatch.setattr(uploads, "_trials", OrderedDict())
    first = try_reward("exact", rows(["a", "b"]))
    calls.clear()
    assert try_reward("exact", rows(["a", "b"])) == first
    assert not calls
    try_reward("contains", rows(["a", "b"]))
    try_reward("exact", rows(["a", "c"]))
    assert len(calls) == 4  # right ones and wrong ones, each
    for number in range(uploads.MOST_TRIALS_KEPT):
        try_reward("exact", rows(["a", str(number)]))
    assert len(uploads._trials) == uploads.MOST_TRIALS_KEPT
    calls.clear()
    assert try_reward("exact", rows(["a", "b"])) == first
    assert calls


def test_a_reward_that_lacks_its_column_is_refused():
    with pytest.raises(T2LocalError, match="needs a column 'tests'"):
        try_reward("code", rows(["a", "b"]))
