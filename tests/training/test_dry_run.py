from dataclasses import replace

import pytest

from t2local.adapt.answering import prompt_ids
from t2local.adapt.dispatch import LABEL_TEMPERATURE
from t2local.errors import T2LocalError
from t2local.progress import drain
from t2local.tasks.datasets import Dataset
from t2local.tasks.rows import Example
from t2local.training.config import NEXT_TOKEN, TrainConfig
from t2local.training.dry_run import (
    ROOM,
    check_lengths,
    expected_seconds,
    fitting,
    with_fitting,
)
from t2local.training.recipe import train_expert
from t2local.training.reports import BatchStatistics
from t2local.training.runs import Plan


def test_labels_of_a_word_or_two_are_tried_out_at_a_higher_temperature():
    labels = [Example("a mail", "billing"), Example("another", "pick-up point")]
    assert fitting("choice", labels)["temperature"] == LABEL_TEMPERATURE
    sentences = [*labels, Example("a third", "the answer is a whole sentence")]
    assert fitting("choice", sentences)["temperature"] == 1.0


@pytest.mark.parametrize(
    ("reward", "answer", "tokens"),
    [("length", "5-20", 30), ("length", "20", 30), ("json", '{"name": "Ana", "age": 31}', 17)],
)
def test_answers_get_room_to_be_too_long(reward, answer, tokens):
    assert fitting(reward, [Example("q", answer)])["max_new_tokens"] == tokens + ROOM


def test_reasoning_before_a_short_answer_is_not_cut():
    assert "max_new_tokens" not in fitting("numeric", [Example("2 + 2?", "4")])


def test_what_a_person_says_wins():
    rows = [Example("q", "5-20")]
    assert with_fitting({"max_new_tokens": 7}, "length", rows).max_new_tokens == 7
    assert with_fitting({}, "length", rows).max_new_tokens == 30 + ROOM
    assert with_fitting({}, "numeric", rows).steps == TrainConfig().steps


# --- Rows that do not fit the context are named before anything is trained.

SHORT = Example("Short?", "yes")


def all_rows(*rows):
    """Rows of a dataset too small to set any aside: each counts once."""
    return Dataset("rows", rows, rows, rows, leave_one_out=True)


def room(loaded, example):
    return loaded.context_length - len(prompt_ids(loaded, example))


def test_a_row_fits_to_the_last_token_and_not_beyond(loaded):
    most = room(loaded, SHORT)
    check_lengths(loaded, all_rows(SHORT), TrainConfig(max_new_tokens=most))
    with pytest.raises(T2LocalError, match=f"lower max_new_tokens \\({most + 1}\\)"):
        check_lengths(loaded, all_rows(SHORT), TrainConfig(max_new_tokens=most + 1))


def test_imitation_counts_the_answer_that_is_given(loaded):
    config = TrainConfig(objective=NEXT_TOKEN, max_new_tokens=10_000)
    most = room(loaded, SHORT) - 1  # a byte a token, and the end of the turn
    check_lengths(loaded, all_rows(Example("Short?", "a" * most)), config)
    with pytest.raises(T2LocalError, match="shorten or leave out such rows"):
        check_lengths(loaded, all_rows(Example("Short?", "a" * (most + 1))), config)


def test_a_choice_counts_its_longest_choice(loaded):
    long = Example("Short?", "a", {"choices": ["a", "b" * loaded.context_length], "label": 0})
    with pytest.raises(T2LocalError, match="1 row does not fit"):
        check_lengths(loaded, all_rows(long), TrainConfig())


def test_a_run_is_refused_with_the_number_of_rows_and_the_first(loaded, svf):
    long = [Example(f"Long {i}: {'x' * 600}\nand on", "a") for i in range(2)]
    source = Dataset("rows", [SHORT, long[0]], [SHORT], [long[1]])
    plan = Plan("e", "rows", "exact", TrainConfig(steps=1), "", command="")
    with pytest.raises(T2LocalError) as refused:
        drain(train_expert(loaded, svf, source, plan))
    text = str(refused.value)
    needed = len(prompt_ids(loaded, long[0])) + plan.config.max_new_tokens
    assert text.startswith("2 rows do not fit the 512 tokens that 'tiny-llama' reads: the first")
    assert "begins 'Long 0: xxx" in text
    assert f"needs {needed} with its answer" in text
    assert "\n" not in text


def test_a_steps_time_counts_what_is_drawn_again_and_leaves_out_what_is_not_read():
    trial = BatchStatistics(
        0, 0, 0, 0, equal_groups=0.0, tokens=1, seconds={"sampling": 4.0}, weight=2
    )
    found = {
        (equal, redraws): expected_seconds(
            10.0, replace(trial, equal_groups=equal), TrainConfig(redraws=redraws)
        )
        for equal in (0.0, 1.0)
        for redraws in (0.0, 1.0)
    }
    assert found[0.0, 0.0] == pytest.approx(4 + 6 * 0.75)
    assert found[1.0, 0.0] == pytest.approx(4 + 6 * 0.25)
    assert found[1.0, 1.0] == pytest.approx(4 * 2 + 6 * 0.5)
    assert found[0.0, 1.0] == pytest.approx(4 * (1 + 0.25 + 0.25**2) + 6 * 0.75 * 1.3125)
