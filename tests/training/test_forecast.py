import pytest

from t2local.progress import Progress, drain
from t2local.training import validation
from t2local.training.config import TrainConfig
from t2local.training.forecast import Agenda, Forecast, base_known, other_seconds
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
