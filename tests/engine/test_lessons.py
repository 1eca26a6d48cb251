"""What verdicts teach: pairs, the better one first, and a habit where there is one."""

import itertools

import pytest

from t2local.adapt.answering import are_preferences
from t2local.engine.lessons import MOST_PAIRS, habit_in, lessons_of
from t2local.engine.verdicts import DOWN, UP, Verdict
from t2local.tasks.files import read_examples
from t2local.tasks.rewards import rewards_of
from t2local.tasks.rows import WHOLE
from t2local.tasks.uploads import suggest_reward, try_reward, write_rows

COUNT = itertools.count()
LONG = "There are eight legs on every spider, and seven spiders stand here, so it is fifty-six."


def verdict(answer, question="How many?", before=(), **said):
    turns = (*before, {"role": "user", "content": question})
    return Verdict(f"{'ab' * 8}-{next(COUNT):032x}", "ab" * 8, turns, answer, **said)


def pairs(*verdicts):
    return [tuple(row.columns["choices"]) for row in lessons_of(verdicts).choices]


def test_an_edit_is_better_than_what_was_said():
    before = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
              {"role": "assistant", "content": "Hello"})  # fmt: skip
    (row,) = lessons_of([verdict("Lots.", wanted="56", before=before)]).choices
    assert row.columns["choices"] == ["56", "Lots."]
    assert (row.prompt, row.answer, row.columns["label"]) == ("How many?", "56", 0)
    assert row.before == before
    assert row.columns[WHOLE]


def test_a_preference_a_thumb_and_an_answer_that_was_asked_again():
    assert pairs(verdict("56", over="Lots.")) == [("56", "Lots.")]
    assert pairs(verdict("56", thumb=UP), verdict("Lots.", thumb=DOWN)) == [("56", "Lots.")]
    assert pairs(verdict("56", thumb=UP), verdict("Lots.", again=True)) == [("56", "Lots.")]
    assert pairs(verdict("Lots.", again=True)) == [], "no other answer to it"


def test_thumbs_on_different_questions_are_no_pair():
    lessons = lessons_of([verdict("56", thumb=UP), verdict("Lots.", "And now?", thumb=DOWN)])
    assert lessons.choices == ()
    assert lessons.alone == 2


def test_a_thumb_that_is_part_of_a_pair_is_not_alone():
    lessons = lessons_of([verdict("56", thumb=UP), verdict("Lots.", thumb=DOWN)])
    assert (lessons.thumbs, lessons.alone) == (1, 0)


def test_one_question_gives_few_pairs_of_thumbs():
    many = [verdict(f"good {n}", thumb=UP) for n in range(9)]
    many += [verdict(f"bad {n}", thumb=DOWN) for n in range(9)]
    assert len(lessons_of(many).choices) == MOST_PAIRS


def test_of_a_contradiction_the_newest_counts_and_equal_pairs_are_one():
    newest, older = verdict("56", over="Lots."), verdict("Lots.", over="56")
    assert pairs(newest, older, newest) == [("56", "Lots.")]
    assert pairs(verdict("56", wanted="56")) == []


def test_pictures_stand_with_their_question():
    picture = "data:image/png;base64,AAAA"
    seen = Verdict("x", "ab" * 8, ({"role": "user", "content": "?", "images": [picture]},), "Red.",
                   wanted="Blue.")  # fmt: skip
    (row,) = lessons_of([seen]).choices
    assert row.own_pictures == (picture,)


def test_rows_come_back_from_their_file_as_whole_choices(home):
    rows = lessons_of([verdict(f"no {n}", f"q {n}", wanted=f"yes {n}") for n in range(6)]).choices
    file = read_examples(write_rows(rows, "from-my-chats"))
    assert file.examples == rows
    assert are_preferences(file.examples)
    assert suggest_reward(file.examples).reward == "choice"
    assert try_reward("choice", file.examples).problem == ""


@pytest.mark.parametrize(
    ("liked", "other", "reward"),
    [
        ("Fifty-six legs.", LONG, "length"),
        (LONG, "56.", "length"),
        ('{"legs": 56}', "There are 56 legs.", "json"),
        ("Sieben Spinnen haben 56 Beine.", "Seven spiders have 56 legs.", "language"),
    ],
)
def test_a_habit_is_a_reward_that_tells_liked_answers_from_the_others(liked, other, reward):
    verdicts = [verdict(liked, f"q {n}", thumb=UP) for n in range(8)]
    verdicts += [verdict(other, f"p {n}", thumb=DOWN) for n in range(8)]
    habit = habit_in(verdicts)
    assert habit.reward == reward
    assert len(habit.examples) == 16
    rows = [habit.examples[0]] * 2
    good, bad = rewards_of(reward, rows, [liked, other])
    assert good == 1.0 > bad


def test_edits_show_a_habit_too():
    assert habit_in([verdict(LONG, f"q {n}", wanted="56.") for n in range(8)]).reward == "length"


def test_no_habit_where_there_are_few_or_nothing_tells_them_apart():
    few = [verdict(LONG, f"q {n}", wanted="56.") for n in range(5)]
    alike = [verdict("Yes, sure.", f"q {n}", thumb=UP) for n in range(8)]
    alike += [verdict("No, never.", f"p {n}", thumb=DOWN) for n in range(8)]
    only_liked = [verdict("56.", f"q {n}", thumb=UP) for n in range(20)]
    for verdicts in (few, alike, only_liked, []):
        assert habit_in(verdicts) is None


def test_the_rows_of_a_habit_are_read_with_their_reward(home):
    german = "Sieben Spinnen haben zusammen sechsundfünfzig Beine, denn jede hat acht."
    for wanted, reward in (('{"legs": 56}', "json"), ("56.", "length"), (german, "language")):
        habit = habit_in([verdict(LONG, f"q {n}", wanted=wanted) for n in range(8)])
        file = read_examples(write_rows(habit.examples, "from-my-chats"))
        assert file.bad_rows == ()
        assert suggest_reward(file.examples).reward == reward == habit.reward
