import pytest

from t2local.errors import T2LocalError
from t2local.tasks.rewards import REWARDS, check_reward, named, rewards_of
from t2local.tasks.rows import Example

SUMS = ["numeric+length", "2*numeric + 0.5*length", "numeric+0.2*length+exact"]


def test_a_plain_name_is_that_reward():
    assert all(named(name) is reward for name, reward in REWARDS.items())


@pytest.mark.parametrize("text", SUMS)
def test_all_parts_right_is_one_and_all_wrong_is_minus_one(text):
    four = Example("2 + 2?", "4")
    assert rewards_of(text, [four, four], ["4", ""]) == pytest.approx([1.0, -1.0])


def test_parts_count_by_their_weights():
    rows = [Example("2 + 2?", "4")]
    assert rewards_of("exact+contains", rows, ["It is 4."]) == pytest.approx([0.0])
    assert rewards_of("exact+3*contains", rows, ["It is 4."]) == pytest.approx([0.5])


def test_a_row_that_a_part_cannot_score_is_not_scored():
    rows = [Example("say", "yes"), Example("2 + 2?", "4")]
    assert rewards_of("numeric+contains", rows, ["yes", "4"]) == [None, pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("numerik", "no reward 'numerik'; did you mean 'numeric'"),
        ("numeric+", "'' is no part of a reward"),
        ("numeric-length", "'numeric-length' is no part"),
        ("0*numeric", "weight above 0"),
        ("-1*numeric", "is no part of a reward"),
        ("1" + "0" * 400 + "*numeric", "is no part of a reward"),
        ("qqq", "choose among exact"),
    ],
)
def test_what_is_no_reward_is_said(text, says):
    with pytest.raises(T2LocalError, match=says.replace("*", r"\*").replace("+", r"\+")):
        named(text)


def test_a_missing_column_is_named_before_anything_is_scored():
    rows = [Example("write f", "", {"tests": ["assert f()"]}), Example("write g", "")]
    with pytest.raises(T2LocalError, match="'code' needs a column 'tests', which 1 of 2 rows lack"):
        check_reward("code+length", rows)
    check_reward("code", rows[:1])
    check_reward("length", rows)
