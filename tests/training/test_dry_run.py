from dataclasses import replace

import pytest

from t2local.adapt.answering import prompt_ids
from t2local.adapt.dispatch import LABEL_TEMPERATURE
from t2local.errors import T2LocalError
from t2local.progress import Progress, drain
from t2local.tasks.datasets import Dataset
from t2local.tasks.rows import Example
from t2local.training import validation
from t2local.training.config import NEXT_TOKEN, TrainConfig
from t2local.training.dry_run import (
    ROOM,
    Agenda,
    Forecast,
    base_known,
    check_lengths,
    expected_seconds,
    fitting,
    other_seconds,
    with_fitting,
)
from t2local.training.recipe import train_expert
from t2local.training.reports import (
    MEASURING_FORGOTTEN,
    MEASURING_HELD_OUT,
    TRAINING_WITHOUT,
    BatchStatistics,
    StepReport,
    Validation,
)
from t2local.training.runner import running
from t2local.training.runs import Plan, Run
from t2local.training.validation import OtherTask, forgetting


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


# --- How long a run takes.

CONFIG = TrainConfig(steps=10, validate_every=5)
BATCH = BatchStatistics(0, 0, 0, 0, 0, 1, {})


def step(number):
    return StepReport(number, CONFIG.steps, BATCH, 1.0, 0.0)


def check(number):
    return Validation(number, 0.5, 0.0, 4, False)


def told(agenda, *events):
    forecast = Forecast()
    for event, seconds in ((agenda, 1.0), *events):
        forecast.listen(event, seconds)
    return forecast.remaining_s


BEGUN = ((check(0), 8.0), (step(1), 3.0))  # a check of 4 rows takes 8 s: 2 s a row


def test_nothing_is_said_before_the_first_step():
    assert told(Agenda(CONFIG, 4, 6), (check(0), 8.0)) is None


def test_all_that_is_left_counts_not_only_the_steps():
    ahead = told(Agenda(CONFIG, 4, 6, others_s=(20.0, 10.0)), *BEGUN)
    assert ahead == 9 * 3 + 2 * 8 + 2 * 6 * 2 + 30


def test_what_was_measured_takes_the_place_of_what_was_thought():
    agenda = Agenda(CONFIG, 4, 6, others_s=(20.0, 10.0, 10.0))
    learnt = (*BEGUN, (step(10), 3.0), (check(10), 8.0))
    base = (Progress(f"{MEASURING_HELD_OUT}: base", 0, 2), 0.0)
    trained = (Progress(f"{MEASURING_HELD_OUT}: trained", 1, 2), 12.0)
    first = (Progress(f"{MEASURING_FORGOTTEN}: math", 0, 3), 12.0)
    second = (Progress(f"{MEASURING_FORGOTTEN}: code", 1, 3), 40.0)  # twice as slow
    assert told(agenda, *learnt) == 2 * 12 + 40
    assert told(agenda, *learnt, base, trained) == 12 + 40
    assert told(agenda, *learnt, base, trained, first) == 40
    assert told(agenda, *learnt, base, trained, first, second) == 2 * 20


def test_left_out_in_turn_each_row_takes_a_training():
    agenda = Agenda(CONFIG, 4, 6, leave_one_out=True)
    a_training = 10 * 3 + 2 * 8
    learnt = (*BEGUN, (step(10), 3.0))
    assert told(agenda, *learnt) == 12 + 6 * a_training
    assert told(agenda, *learnt, (Progress(TRAINING_WITHOUT, 4, 6), 50.0)) == 2 * a_training


def test_the_base_models_part_is_counted_until_it_is_remembered(loaded, svf, colours, monkeypatch):
    task = OtherTask("colours", tuple(colours))
    assert not base_known(loaded, svf, task)
    (twice,) = other_seconds(loaded, svf, [task])
    assert twice > 0
    drain(forgetting(loaded, svf, lambda: svf.using({}), [task]))
    assert base_known(loaded, svf, task)
    monkeypatch.setattr(validation, "MOST_KEPT", 1)
    texts = OtherTask("texts", tuple(colours[:2]), "contains", 16)
    assert not base_known(loaded, svf, texts), "another reward is another memory"


@pytest.mark.usefixtures("no_other_tasks")
def test_a_runs_first_event_says_what_it_has_to_do_and_the_last_that_nothing_is_left(
    loaded, svf, data
):
    config = TrainConfig(steps=2, prompts_per_step=4, validate_every=1)
    run, forecast, events = Run.create(Plan("red", data, "choice", config)), Forecast(), []

    def listen(event):
        events.append(event)
        forecast.listen(event, 0.5)

    drain(running(run, loaded, svf, lambda expert: None), listen)
    assert isinstance(events[0], Agenda)
    assert (events[0].validation, events[0].held_out) == (1, 3)
    assert forecast.remaining_s == pytest.approx(3 * 0.5), "the trained one's answers"


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
