import pytest

from t2local.adapt.dispatch import LABEL_TEMPERATURE
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.dry_run import ROOM, fitting, with_fitting


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
