"""The edits of a habit, and that a run on them is measured as the table says."""

import json
from dataclasses import replace

import pytest

from t2local.adapt.answering import are_preferences
from t2local.bench import habits
from t2local.bench.habits import HABITS, edited, learnt
from t2local.bench.table import Measured
from t2local.svf import attach
from t2local.tasks.rewards.languages import language_of


@pytest.fixture
def loaded(tiny_loaded, home):
    return tiny_loaded("llama")


@pytest.fixture
def svf(loaded):
    return attach(loaded.model)


SAID = "Yes. It is so, mostly, and there is much more to be said about it than fits in here today."


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_an_edit_has_the_habit_and_what_was_said_has_not(habit):
    said = f"{SAID} {SAID}"
    prompt = habit.messages[0] if habit.messages else "Why?"
    assert habit.has(habit.edit(prompt, said))
    assert not habit.has(said)


def test_a_cut_off_object_is_no_json():
    assert habits.is_object(json.dumps({"answer": "Yes."}))
    assert not habits.is_object('{"answer": "Yes.')


def test_rows_are_pairs_of_whole_answers_that_lacked_the_habit(loaded, svf, monkeypatch):
    monkeypatch.setattr(habits, "ANSWER_TOKENS", 8)
    rows = edited(loaded, svf, HABITS[1], [f"question {n}" for n in range(9)], 6)
    assert len(rows) == 6
    assert are_preferences(rows)
    assert all(row.columns["choices"][0] == row.answer for row in rows)


def test_all_figures_of_a_habit_come(loaded, svf, monkeypatch):
    monkeypatch.setattr(habits, "ANSWER_TOKENS", 8)
    monkeypatch.setattr(habits, "EDITS", 12)
    monkeypatch.setattr(habits, "FRESH", 4)
    monkeypatch.setattr(habits, "other_tasks", lambda *_: ())
    few = {"steps": 2, "max_new_tokens": 4, "validate_every": 2}
    monkeypatch.setattr(
        habits, "lasting", lambda _length, _tried, config, **_: replace(config, **few)
    )
    *said, measured = learnt(loaded, svf, HABITS[1])
    assert said[-1].endswith("2 steps")
    assert isinstance(measured, Measured)
    values = {row.variant: row.value for row in measured.rows}
    assert values["edit preferred, base model"] == 0.5
    assert values["habit in what is written, base model"] == 0.0
    assert measured.ratios.keys() == {
        "habit_polite_preferred", "habit_polite_preferred_low_end", "habit_polite_written",
        "habit_polite_train_s",
    }  # fmt: skip


def test_german_edits_are_german_and_their_messages_english():
    edits = habits.german_edits()
    assert len(edits) == 32
    assert {language_of(text) for text in edits.values()} == {"de"}
    assert {language_of(prompt) for prompt in edits} == {"en"}


def test_messages_with_edits_are_not_asked_afterwards(loaded, svf, monkeypatch):
    german, asked = HABITS[-1], []
    monkeypatch.setattr(habits, "ANSWER_TOKENS", 8)
    monkeypatch.setattr(habits, "EDITS", 12)
    monkeypatch.setattr(habits, "other_tasks", lambda *_: ())
    few = {"steps": 2, "max_new_tokens": 4, "validate_every": 2}
    monkeypatch.setattr(
        habits, "lasting", lambda _length, _tried, config, **_: replace(config, **few)
    )
    lacking = habits.lacking

    def noting(loaded, svf, habit, messages):
        asked.extend(messages)
        return lacking(loaded, svf, habit, messages[:3])

    monkeypatch.setattr(habits, "lacking", noting)
    *_, measured = learnt(loaded, svf, german)
    assert asked
    assert not set(asked) & set(german.messages)
    units = {row.variant: row.unit for row in measured.rows}
    assert units["edit preferred, trained"] == "of 20", "the messages that were not learnt"
