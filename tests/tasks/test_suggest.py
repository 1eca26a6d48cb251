import json

import pytest

from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.tasks.uploads import distinct_answers, read_draft, suggest_reward, with_choices


def rows(answers, **columns):
    return [Example(f"question {i}?", answer, columns) for i, answer in enumerate(answers)]


TABLE = {
    "numeric": rows(["4", "1,234.50", "-7", "50%", "12"]),
    "choice": rows(["yes", "no"] * 5),
    "json": rows(['{"a": 1}', '{"b": [2]}', "{}"]),
    "length": rows(["5-20", "10 – 30", "3-8"]),
    "math": rows([r"\frac{1}{2}", r"x^2", r"\sqrt{3}"]),
    "contains": rows(["Paris", "the Nile", "Marie Curie"]),
    "code": rows(["def f(): pass", "def g(): pass"], tests=["assert f()"]),
}


@pytest.mark.parametrize("reward", TABLE)
def test_each_kind_of_answer_gets_its_reward_with_a_reason(reward):
    suggestion = suggest_reward(TABLE[reward])
    assert suggestion.reward == reward
    assert suggestion.reward in REWARDS
    assert suggestion.reason.endswith(".")


def test_columns_say_more_than_answers():
    assert suggest_reward(rows(["1", "2"], choices=["1", "2"])).reward == "choice"
    assert suggest_reward(rows(["", ""], schema={"type": "object"})).reward == "json"


def test_long_texts_are_not_compared_word_by_word():
    long = rows([f"A rather long answer, number {i}, in several words." for i in range(9)])
    assert suggest_reward(long).reward == "length"


def test_answers_that_repeat_become_choices_with_their_label():
    ready = with_choices(rows(["spam", "ham", "spam", "ham", "spam", "ham"]))
    assert ready[0].columns == {"choices": ["ham", "spam"], "label": 1}
    given = rows(["x"], choices=["x", "y"])
    assert with_choices(given) == given


def test_answers_that_do_not_repeat_are_no_choices():
    assert distinct_answers(rows(["a", "b", "c", "d", "e", "f"])) == []
    with pytest.raises(T2LocalError, match="6 rows have 6 different"):
        with_choices(rows(["a", "b", "c", "d", "e", "f"]))


SAMPLES = {
    "sort_support_mails": "choice",
    "reply_in_json": "json",
    "one_sentence_answers": "length",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_that_ship_are_whole(name):
    draft = read_draft(str(PROJECT_ROOT / "assets" / "samples" / f"{name}.csv"))
    assert draft.suggestion.reward == SAMPLES[name]
    assert 100 <= len(draft.file.examples) <= 160
    assert not draft.file.bad_rows
    assert not draft.file.duplicates
    if name == "reply_in_json":
        assert all(json.loads(e.answer) for e in draft.file.examples)
